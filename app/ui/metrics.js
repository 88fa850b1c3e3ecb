// Rates from the gateway's own /metrics: cumulative counters read twice, a few seconds apart. Quantiles are those of the
// histogram's buckets, interpolated within a bucket, so they are as coarse as the buckets are.

const SAMPLE = /^(gateway_requests_total|gateway_request_duration_seconds_bucket)\{(.*)\} (\S+)/;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;
const CLIENT_ROLES = ["production", "canary", "fallback"];

/** `[{name, labels, value}]` of the two metrics that are charted. */
export function parse(text) {
  const samples = [];
  for (const line of text.split("\n")) {
    const found = SAMPLE.exec(line);
    if (!found) continue;
    const labels = Object.fromEntries([...found[2].matchAll(LABEL)].map(([, key, value]) => [key, value.replace(/\\(.)/g, "$1")]));
    samples.push({ name: found[1], labels, value: Number(found[3]) });
  }
  return samples;
}

/** Totals of one model by version and role: `{version: {role: {requests, errors, buckets: Map(upper → count)}}}`. */
function totals(samples, model) {
  const result = {};
  for (const { name, labels, value } of samples) {
    if (labels.model !== model) continue;
    const one = ((result[labels.version] ??= {})[labels.role] ??= { requests: 0, errors: 0, buckets: new Map() });
    if (name === "gateway_requests_total") {
      one.requests += value;
      if (labels.code.startsWith("5")) one.errors += value;
    } else {
      one.buckets.set(Number(labels.le.replace("+Inf", "Infinity")), value);
    }
  }
  return result;
}

/** Keeps the last readings and says what happened between the newest and the one `span` seconds before. */
export class Rates {
  constructor(span = 5) {
    this._span = span;
    this._readings = [];
  }

  add(text, now = Date.now() / 1000) {
    this._readings.push({ at: now, samples: parse(text) });
    while (this._readings.length > 2 && this._readings[1].at <= now - this._span) this._readings.shift();
  }

  /** `[{version, role, toClients, perSecond, errorRate, p50, p99}]`, latencies in milliseconds; null without requests. */
  of(model) {
    if (this._readings.length < 2) return [];
    const [first, last] = [this._readings[0], this._readings[this._readings.length - 1]];
    const before = totals(first.samples, model);
    const seconds = Math.max(last.at - first.at, 0.001);
    const rows = [];
    for (const [version, roles] of Object.entries(totals(last.samples, model))) {
      for (const [role, now] of Object.entries(roles)) {
        const then = before[version]?.[role];
        const requests = Math.max(0, now.requests - (then?.requests ?? 0));
        const errors = Math.max(0, now.errors - (then?.errors ?? 0));
        const counts = [...now.buckets].map(([upper, count]) => [upper, Math.max(0, count - (then?.buckets.get(upper) ?? 0))]).sort(([a], [b]) => a - b);
        rows.push({
          version,
          role,
          toClients: CLIENT_ROLES.includes(role),
          perSecond: requests / seconds,
          errorRate: requests ? errors / requests : null,
          p50: quantile(counts, 0.5),
          p99: quantile(counts, 0.99),
        });
      }
    }
    return rows;
  }
}

function quantile(counts, q) {
  const total = counts.length ? counts[counts.length - 1][1] : 0;
  if (total === 0) return null;
  let lower = 0;
  let below = 0;
  for (const [upper, count] of counts) {
    if (count >= q * total) {
      const end = Number.isFinite(upper) ? upper : lower;
      return (lower + (end - lower) * ((q * total - below) / Math.max(count - below, 1e-9))) * 1000;
    }
    lower = upper;
    below = count;
  }
  return null;
}
