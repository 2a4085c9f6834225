// Waiting with a limit: for conditions, never for time.

export const sleep = ms => new Promise(resolve => setTimeout(resolve, ms));

/** Polls `probe` until it returns something truthy and returns that; throws after `timeout` ms. */
export async function until(probe, { timeout = 10_000, every = 20, what = 'a condition' } = {}) {
  const end = performance.now() + timeout;
  let last;
  for (;;) {
    try {
      const value = await probe();
      if (value) return value;
      last = undefined;
    } catch (error) {
      if (error.fatal) throw error;
      last = error;
    }
    if (performance.now() >= end) {
      const why = typeof what === 'function' ? what() : what;
      throw new Error(`not within ${timeout} ms: ${why}${last ? ` (last error: ${last.message})` : ''}`);
    }
    await sleep(every);
  }
}

/** The promise's outcome, or an error that says `what` took longer than `ms`. */
export async function within(ms, what, promise) {
  let timer;
  const limit = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not within ${ms} ms: ${typeof what === 'function' ? what() : what}`)), ms);
  });
  try {
    return await Promise.race([promise, limit]);
  } finally {
    clearTimeout(timer);
  }
}

/** Runs `fn` over `items`, at most `width` at a time; results in order, the first error thrown. */
export async function pooled(items, width, fn) {
  const list = [...items];
  const results = new Array(list.length);
  let next = 0;
  const lane = async () => {
    while (next < list.length) {
      const at = next++;
      results[at] = await fn(list[at], at);
    }
  };
  await Promise.all(Array.from({ length: Math.min(width, list.length) }, lane));
  return results;
}

export const range = n => Array.from({ length: n }, (_, i) => i);
