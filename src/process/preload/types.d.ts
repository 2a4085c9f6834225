// What the modules hand one another, for the type checker.
import type { Server, Socket } from 'net';

/** What the proxy says of this worker (docs/protocol.md), with defaults filled in. */
export interface Settings {
  /** No proxy started it; it joins one. */
  external?: boolean;
  control: string;
  socket: string;
  app?: string;
  slot?: number;
  incarnation?: number;
  token: string;
  tag: string | undefined;
  port: number | null;
  /** The app's public port, by the configuration: nothing else is. */
  main_port?: number;
  /** The one that the app's first worker had. */
  settled_port?: number;
  /** What is said of further ports. */
  ports?: Record<string, 'one' | 'each' | 'off'>;
  keep_alive_ms: number;
  orphan_ms: number;
}

/** What a call of `listen` asks for. */
export interface Wish {
  /** `null`: the worker's own socket, by its path. */
  port: number | null;
  host: string;
  backlog: number;
  exclusive: boolean;
  signal: AbortSignal | undefined;
  callback: (() => void) | null;
}

/** A server that was taken over. */
export interface Seat {
  server: Server & { _connections?: number; closeIdleConnections?(): void };
  kind: 'http' | 'https' | 'http2' | 'http2s';
  path: string | null;
  /** What the app asked for. */
  port: number | null;
  host: string;
  address: { address: string; family: string; port: number } | null;
  main: boolean;
  /** Its claim, if it is the main one: its port was named, it was the first, or there is no other. */
  why: 'port' | 'first' | 'only';
  /** It may become the main one in a moment. */
  pending: boolean;
  /** Its place on TCP, if it is a further one. */
  tcp: { server: Server | null; retry: NodeJS.Timeout | null; at: number } | null;
  /** What the proxy was told of that. */
  said: string | null;
  /** listen() was called and close() not since. */
  taken: boolean;
  up: boolean;
  /** The app has called close(): connections end once they are idle. */
  leaving: boolean;
  /** Closed by a shutdown, and the app has not closed it yet. */
  finished: boolean;
  wish: Wish | null;
  /** The HTTP/1.1 server within an http2 server. */
  inner: import('http').Server | null;
}

export interface Seats {
  of: WeakMap<Server, Seat>;
  open: Set<Seat>;
  stem: string;
  isClusterWorker(): boolean;
  isSlotInUse(): boolean;
  decideAgain(): void;
  choosePath(port: number): string;
  isTaken(port: number, host: string): boolean;
  vacate(path: string): boolean;
  cameUp(seat: Seat): void;
  wentDown(seat: Seat): void;
  sweepAtExit(): void;
}

export interface Ports {
  settle(seat: Seat): void;
  leave(seat: Seat): void;
}

export interface Engines {
  /** None was met. */
  none: boolean;
  scan(): void;
  scanAgain(): void;
  sessions(): number;
  paths(): string[];
  drain(windowMs: number): void;
}

export interface Channel {
  start(): void;
  announce(seat: Seat): void;
  withdraw(seat: Seat): void;
  tellPort(seat: Seat): void;
  tellPaths(): void;
  sendReady(): void;
  sendMessage(data: unknown, done: (error: Error | null) => void): void;
  hold(on: boolean): void;
  isLost(): boolean;
  /** Takes over `message` lines for the app, where `process.send` is ours. */
  onMessage: ((data: unknown) => void) | null;
}

/** What Node's functions were before they were patched. */
export interface Original {
  listen: (...args: any[]) => Server;
  address: Server['address'];
  close: Server['close'];
}

/** What all modules share: one worker per process. */
export interface Shared {
  settings: Settings;
  timers: Pick<typeof globalThis, 'setTimeout' | 'clearTimeout' | 'setInterval'>;
  nextTick: typeof process.nextTick;
  isMainThread: boolean;
  /** Another process of the app has started this one. */
  isChild: boolean;
  /** The proxy has sent its last request. */
  finishing: boolean;
  seats: Seats;
  ports: Ports;
  engines: Engines;
  channel: Channel;
  original: Original;
}

export type ProxySocket = Socket & { encrypted: boolean };
