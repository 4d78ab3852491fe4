// @ts-check
// Keeps something that is asked for often from running more than once in a while.

/**
 * Calls `action` at once, then at most once in `pause` milliseconds however often it is asked for; what was asked for
 * in between is done once, at the end of the pause.
 * @param {() => void} action
 * @param {number} pause
 */
export function pace(action, pause) {
  /** @type {ReturnType<typeof setTimeout> | null} */
  let resting = null;
  let asked = false;

  const act = () => {
    asked = false;
    resting = setTimeout(() => {
      resting = null;
      if (asked) act();
    }, pause);
    action();
  };

  return () => {
    asked = true;
    if (resting === null) act();
  };
}
