// Chance that can be repeated: everything drawn follows from the seed.

export class Random {
  #state;

  constructor(seed) {
    this.#state = seed >>> 0;
    // Neighbouring seeds must not begin alike.
    for (let i = 0; i < 4; i++) this.next();
  }

  /** 32 bits (mulberry32). */
  next() {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let t = this.#state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return (t ^ (t >>> 14)) >>> 0;
  }

  /** 0 to n - 1. */
  int(n) {
    return this.next() % n;
  }

  between(least, most) {
    return least + this.int(most - least + 1);
  }

  chance(probability) {
    return this.next() < probability * 2 ** 32;
  }

  pick(list) {
    return list[this.int(list.length)];
  }

  /** One key of `{key: weight}`. */
  weighted(weights) {
    let at = this.int(Object.values(weights).reduce((sum, weight) => sum + weight, 0));
    for (const [key, weight] of Object.entries(weights)) {
      if (at < weight) return key;
      at -= weight;
    }
    return undefined;
  }

  text(length, alphabet) {
    let text = '';
    for (let i = 0; i < length; i++) text += alphabet[this.int(alphabet.length)];
    return text;
  }

  /** Small letters and capitals at random. */
  casing(text) {
    return [...text].map(c => (this.chance(0.5) ? c.toUpperCase() : c.toLowerCase())).join('');
  }
}
