'use strict';
/** Messages as JSON, with binary data. */

// Binary data survives the way as {"$buffer":"<base64>"}; an object that happens to look like that as {"$buffer":[..]}.

function stringify(value) {
  return JSON.stringify(value, function (key, coded) {
    // `coded` has been through toJSON already, and a Buffer with it.
    const raw = this[key];
    if (raw === null || typeof raw !== 'object') return coded;
    if (raw instanceof ArrayBuffer) return { $buffer: Buffer.from(raw).toString('base64') };
    if (ArrayBuffer.isView(raw)) {
      return { $buffer: Buffer.from(raw.buffer, raw.byteOffset, raw.byteLength).toString('base64') };
    }
    return isMarked(coded) ? { $buffer: [coded.$buffer] } : coded;
  });
}

function parse(line) {
  if (line.indexOf('"$buffer"') < 0) return JSON.parse(line);
  return JSON.parse(line, function (_key, value) {
    if (!isMarked(value)) return value;
    const inside = value.$buffer;
    if (typeof inside === 'string') return Buffer.from(inside, 'base64');
    return Array.isArray(inside) && inside.length === 1 ? { $buffer: inside[0] } : value;
  });
}

function isMarked(value) {
  return value !== null && typeof value === 'object' && '$buffer' in value && Object.keys(value).length === 1;
}

module.exports = { parse, stringify };
