import assert from "node:assert/strict";
import { mock, test } from "node:test";

import { pace } from "../../web/status/pace.js";

test("fifty requests a second become two calls a second, and the last one is not lost", () => {
  mock.timers.enable({ apis: ["setTimeout"] });
  try {
    let calls = 0;
    let asked = 0;
    let seen = 0;
    const request = pace(() => {
      calls += 1;
      seen = asked;
    }, 500);
    for (let step = 0; step < 100; step += 1) {
      asked = step;
      request();
      mock.timers.tick(20);
    }
    assert.ok(calls <= 5, `${calls} calls in two seconds`);
    mock.timers.tick(500);
    assert.equal(seen, 99);
    const before = calls;
    mock.timers.tick(5000);
    assert.equal(calls, before, "nothing is asked for: nothing is done");
    request();
    assert.equal(calls, before + 1, "after a pause the next one is done at once");
  } finally {
    mock.timers.reset();
  }
});
