'use strict';
/** How prototypes are patched. */

/** Puts a function in another's place, hidden or shown as that one was. */
function replace(object, name, value) {
  const old = Object.getOwnPropertyDescriptor(object, name);
  const enumerable = old === undefined ? false : old.enumerable;
  Object.defineProperty(object, name, { value, enumerable, configurable: true, writable: true });
}

module.exports = { replace };
