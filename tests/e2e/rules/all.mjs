// Every rule. A rule has
//   name     what it promises
//   app      on which app of the configuration (config.mjs) it is asked
//   act      asks, on the path `at`; returns what came
//   expect   judges that, for all paths
//   not      {path: why} the cells that make no sense; `http2` and `pingora` stand for all paths of that kind
//   instead  {path: {says, expect}} what a path that cannot hold the rule does instead, and how that is asked if not by `act`
//   alone    its cells run one after the other; else at the same time. Rules of one app (but `web`) never run at the same time
//   own      the configuration of a proxy of its own for each cell
//   connections  how many adopted connections a cell takes
//   before, behind  once around all its cells

import { answers } from './answers.mjs';
import { hangs } from './hangs.mjs';
import { heads } from './heads.mjs';
import { limits } from './limits.mjs';
import { log } from './logged.mjs';
import { routed } from './routes.mjs';
import { sessions } from './sessions.mjs';
import { workers } from './workers.mjs';

export const all = [...limits, ...heads, ...answers, ...hangs, ...workers, ...sessions, ...log, ...routed];
