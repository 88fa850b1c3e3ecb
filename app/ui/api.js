// Talks to the gateway's admin API with the token of this tab. The token lives in sessionStorage and nowhere else: it
// must never appear in an address, in the page or in a log.

const TOKEN = "model-gateway-token";

/** A refusal: `status` of HTTP (0: the gateway was not reached) and a message for people. */
export class Refusal extends Error {
  constructor(status, message, body) {
    super(message);
    this.status = status;
    this.body = body;
  }
}

export const session = {
  token: () => sessionStorage.getItem(TOKEN),
  start: (token) => sessionStorage.setItem(TOKEN, token),
  end: () => sessionStorage.removeItem(TOKEN),
};

/** One call; the parsed answer. `headers` may carry If-Match. */
export async function call(method, path, body, { headers = {}, signal, token = session.token() } = {}) {
  let reply;
  try {
    reply = await fetch(path, {
      method,
      signal,
      cache: "no-store",
      headers: {
        Authorization: `Bearer ${token}`,
        ...(body === undefined ? {} : { "Content-Type": "application/json" }),
        ...headers,
      },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal(0, "the gateway cannot be reached");
  }
  const text = await reply.text();
  const answer = text && (reply.headers.get("Content-Type") ?? "").includes("json") ? JSON.parse(text) : text;
  if (reply.ok) return answer;
  throw new Refusal(reply.status, answer?.detail ?? answer?.title ?? `${reply.status} ${reply.statusText}`, answer);
}

export const get = (path, options) => call("GET", path, undefined, options);

/** The path of a model's admin resource; names are escaped. */
export function modelPath(model, rest = "") {
  return `/admin/models/${encodeURIComponent(model)}${rest}`;
}
