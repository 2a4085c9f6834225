// Numbered messages that both sides make and check: the app and the clients of a siege.

/** Text that follows from `seed`, `size` bytes of it. */
const pattern = (seed, size) => Buffer.alloc(size, `${seed}.`);

/** A message is its number, `:` and text that follows from the number. */
const numbered = (what, n) => `${what} ${n} of ${process.pid}`;

numbered.message = (n, size, of = n) => Buffer.concat([Buffer.from(`${n}:`), pattern(of, size)]);

numbered.read = data => {
  const at = data.indexOf(':');
  if (at < 1 || at > 10) return { n: NaN, whole: false };
  const n = Number(data.toString('latin1', 0, at));
  return { n, whole: data.subarray(at + 1).equals(pattern(n, data.length - at - 1)) };
};

/** Line `n` of this process's output; the reader finds the same. */
numbered.line = (n, pid = process.pid) => `line ${n} of ${pid} ${pattern(n, n % 7 === 0 ? 1500 : 30)}\n`;

/** Numbers that must come as 1, 2, 3 ... */
class Count {
  last = 0;
  wrong = 0;

  constructor(tell) {
    this.tell = tell;
  }

  take(n, whole = true) {
    const expected = this.last + 1;
    if (n !== expected || !whole) {
      this.wrong++;
      const what = !whole ? 'damaged' : n <= this.last ? 'double or late' : 'a gap';
      this.tell(`message ${n} where ${expected} was due: ${what}`);
    }
    this.last = Math.max(this.last, n || 0);
  }
}

module.exports = { pattern, numbered, Count };
