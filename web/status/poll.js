// @ts-check
// Watches something that the host does not announce.

const PAUSE = 500;

/**
 * Calls `action` when what `look` says has changed, asked for twice a second between `start` and `stop`.
 * @param {() => string} look
 * @param {() => void} action
 */
export function createPoll(look, action) {
  /** @type {ReturnType<typeof setInterval> | null} */
  let timer = null;
  let last = "";
  return {
    start() {
      timer ??= setInterval(() => {
        const now = look();
        if (now === last) return;
        last = now;
        action();
      }, PAUSE);
    },
    stop() {
      if (timer !== null) clearInterval(timer);
      timer = null;
    },
  };
}
