// Pipelines of requests for one client connection: ordinary ones, perhaps an odd one, and then one that must not come through if the
// odd one was refused. Each is a function of the seed and of its number.

import { body } from './bodies.mjs';
import { distortRequest } from './oddities.mjs';
import { Random } from './random.mjs';
import { plain } from './request.mjs';
import { vary } from './variations.mjs';

const METHODS = { GET: 6, POST: 8, PUT: 2, DELETE: 1, PATCH: 2, OPTIONS: 1, HEAD: 1 };
const ODD_SHARE = 0.6;

/** Numbers that no other request has, and that no change of a byte leads to. */
const number = (pipeline, place) => `c${pipeline.toString(36).padStart(5, '0')}z${place.toString(36)}q`;

/** `{server, requests, cuts}`; `cuts` are the places at which the bytes are cut into writes. */
export function pipeline(seed, index, shares) {
  const random = new Random(Math.imul(seed, 0x9e3779b1) ^ Math.imul(index + 1, 0x85ebca6b));
  const server = random.weighted(shares);
  const odd = random.chance(ODD_SHARE);
  const requests = [];
  for (let i = odd ? random.int(4) : random.between(4, 16); i > 0; i--) requests.push(ordinary(random, number(index, requests.length), server));
  if (odd) {
    const request = distortRequest(random, ordinary(random, number(index, requests.length), server, { framed: random.chance(0.7) }));
    requests.push(request);
    if (!request.labels.includes('cut short') && random.chance(0.7)) {
      requests.push(ordinary(random, number(index, requests.length), server, { last: true }));
    }
  }
  const length = requests.reduce((sum, request) => sum + request.bytes().length, 0);
  return { index, server, requests, cuts: cuts(random, length) };
}

function ordinary(random, id, server, { framed = random.chance(0.5) } = {}) {
  const request = plain(id, server, { method: random.weighted(METHODS) });
  const mode = random.weighted({ '': 8, early: 1, soon: 1 });
  if (mode) request.add('X-Mode', mode);
  vary(random, request);
  if (framed) body(random, request);
  return request;
}

function cuts(random, length) {
  const places = new Set();
  switch (random.weighted({ whole: 5, few: 4, many: 1 })) {
    case 'few':
      for (let i = random.between(1, 5); i > 0; i--) places.add(random.int(length));
      break;
    case 'many': {
      const from = random.int(Math.max(1, length - 60));
      for (let at = from; at < Math.min(from + 60, length); at++) places.add(at);
      break;
    }
    default:
  }
  places.delete(0);
  return [...places].sort((a, b) => a - b);
}
