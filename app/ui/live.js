// Keeps what the page shows fresh: polls each named path at its own interval while the page is visible, and remembers
// the last minutes of a few figures for the charts. A slow answer delays only itself: the next poll of a path starts
// after the last one has ended.

import { get, Refusal } from "./api.js";

const KEEP_S = 300;

/** Polls `paths` ({name: {path, every}}, seconds) and calls `changed(name)` after each answer. */
export class Live {
  constructor(changed, refused) {
    this.data = {};
    this.errors = {};
    this.lost = false;
    this._changed = changed;
    this._refused = refused;
    this._running = new Map();
  }

  /** Replaces the set of paths; those that stay keep their data. */
  follow(paths) {
    for (const [name, running] of this._running) {
      if (paths[name]?.path !== running.path) {
        running.stop.abort();
        this._running.delete(name);
        delete this.data[name];
        delete this.errors[name];
      }
    }
    for (const [name, { path, every }] of Object.entries(paths)) {
      if (this._running.has(name)) continue;
      const running = { path, every, stop: new AbortController(), wake: () => {} };
      this._running.set(name, running);
      this._poll(name, running);
    }
  }

  /** Asks again at once, after an action. */
  refresh() {
    for (const running of this._running.values()) running.wake();
  }

  stop() {
    this.follow({});
  }

  async _poll(name, running) {
    const { signal } = running.stop;
    while (!signal.aborted) {
      if (!document.hidden) await this._ask(name, running);
      await new Promise((resolve) => {
        running.wake = resolve;
        setTimeout(resolve, running.every * 1000);
      });
    }
  }

  async _ask(name, running) {
    try {
      const answer = await get(running.path, { signal: running.stop.signal });
      if (running.stop.signal.aborted) return;
      this.data[name] = answer;
      delete this.errors[name];
      this.lost = false;
    } catch (error) {
      if (error.name === "AbortError" || running.stop.signal.aborted) return;
      if (!(error instanceof Refusal)) throw error;
      this.errors[name] = error;
      this.lost = error.status === 0;
      if (error.status === 401) this._refused();
    }
    this._changed(name);
  }
}

/** The last minutes of named series: {key: [[seconds, value|null]]}. */
export class History {
  constructor() {
    this._series = new Map();
  }

  add(key, value, now = Date.now() / 1000) {
    const points = this._series.get(key) ?? [];
    points.push([now, value]);
    while (points.length && points[0][0] < now - KEEP_S) points.shift();
    this._series.set(key, points);
  }

  points(key) {
    return this._series.get(key) ?? [];
  }
}
