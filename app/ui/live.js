// Keeps what the page shows fresh. The gateway tells what changed (server-sent events) and the paths concerned are read at
// once; each path is also polled at its own interval while the page is visible, less often while notices arrive, so that
// nothing depends on them. A slow answer delays only itself: the next poll of a path starts after the last one has ended.

import { follow as followEvents, get, Refusal } from "./api.js";

const KEEP_S = 300;
const CALMER = 5; // as many times rarer is a path polled while its changes are told
const AWAY = [0, 502, 503, 504];

/** Polls `paths` ({name: {path, every, on: [kinds of notices]}}, seconds) and calls `changed(name)` after each answer. */
export class Live {
  constructor(changed, refused) {
    this.data = {};
    this.errors = {};
    this.lost = ""; // why the gateway gives no answers now
    this.told = false;
    this._changed = changed;
    this._refused = refused;
    this._running = new Map();
    this._ended = new AbortController();
    this._listen();
  }

  /** Replaces the set of paths; those that stay keep their data. */
  follow(paths) {
    for (const [name, running] of this._running) {
      if (paths[name]?.path !== running.path) {
        running.stop.abort();
        running.wake();
        this._running.delete(name);
        delete this.data[name];
        delete this.errors[name];
      }
    }
    for (const [name, wanted] of Object.entries(paths)) {
      if (this._running.has(name)) continue;
      const running = { on: [], ...wanted, stop: new AbortController(), wake: () => {}, again: false };
      this._running.set(name, running);
      this._poll(name, running);
    }
  }

  /** Asks again at once, after an action. */
  refresh() {
    this._wake(() => true);
  }

  stop() {
    this._ended.abort();
    this.follow({});
  }

  _wake(concerned) {
    for (const running of this._running.values()) {
      if (!concerned(running)) continue;
      running.again = true;
      running.wake();
    }
  }

  /** Follows the notices for as long as the page lives; comes back after each break, later after each failure. */
  async _listen() {
    const { signal } = this._ended;
    let lastId;
    for (let failures = 0; !signal.aborted; ) {
      try {
        await followEvents("/admin/events", {
          lastId,
          signal,
          heard: ({ id, event, data }) => {
            lastId = id;
            failures = 0;
            this.told = true;
            if (event !== "start") this._wake((running) => running.on.includes(event));
            else if (!data.resumed) this.refresh();
          },
        });
      } catch {
        failures += 1; // polling goes on, and says what is wrong
      }
      this.told = false;
      await new Promise((resolve) => setTimeout(resolve, Math.min(1000 * 2 ** failures, 15_000)));
    }
  }

  async _poll(name, running) {
    const { signal } = running.stop;
    while (!signal.aborted) {
      running.again = false;
      if (!document.hidden) await this._ask(name, running);
      if (signal.aborted) return;
      await new Promise((resolve) => {
        const calmer = this.told && running.on.length > 0 ? CALMER : 1;
        const timer = setTimeout(resolve, running.again ? 100 : running.every * calmer * 1000);
        running.wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
  }

  async _ask(name, running) {
    try {
      const answer = await get(running.path, { signal: running.stop.signal });
      if (running.stop.signal.aborted) return;
      this.data[name] = answer;
      delete this.errors[name];
      this.lost = "";
    } catch (error) {
      if (error.name === "AbortError" || running.stop.signal.aborted) return;
      if (!(error instanceof Refusal)) throw error;
      this.errors[name] = error;
      this.lost = AWAY.includes(error.status) ? error.message : "";
      if (error.status === 401) {
        this._refused();
        return;
      }
    }
    try {
      this._changed(name);
    } catch (error) {
      reportError(error); // one answer that cannot be drawn must not end the polling
    }
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
