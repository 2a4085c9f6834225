// One proxy for a whole file's small tests.

import { after, before, describe, test } from 'node:test';
import { startProxy } from './proxy.mjs';

/** `define(check, get)`: `check(name, [options], async (proxy, t) => ...)` declares a test on the shared proxy. */
export function sharing(title, config, define, options) {
  describe(title, () => {
    let proxy;
    before(async () => {
      proxy = await startProxy(config, options);
    });
    after(() => proxy?.stop(options?.stop));
    define((name, settings, body) => {
      if (typeof settings === 'function') [settings, body] = [{}, settings];
      test(name, { timeout: 30_000, ...settings }, async t => {
        try {
          await body(proxy, t);
        } catch (error) {
          proxy.show();
          throw error;
        }
      });
    });
  });
}
