// The server's answers: the login's, and Graphite's through the data source proxy.

/** An answer that is not what was asked for; `status` is HTTP's. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function ask(path, options) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Refused(0, "The server does not answer.");
  }
  const text = await answer.text();
  if (!answer.ok) {
    let message = text.trim();
    try {
      message = JSON.parse(text).message;
    } catch {
      // Graphite's errors are plain text.
    }
    throw new Refused(answer.status, message || `The server answered ${answer.status}.`);
  }
  return text === "" ? null : JSON.parse(text);
}

export const login = (user, password) =>
  ask("/login", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ user, password }),
  });

/** The Graphite that was provisioned: the default one, or else the first; undefined without any. */
export async function graphite() {
  const sources = (await ask("/api/datasources")).filter((source) => source.type === "graphite");
  return sources.find((source) => source.isDefault) ?? sources[0];
}

const proxied = (source, path) => `/api/datasources/proxy/uid/${encodeURIComponent(source.uid)}/${path}`;

/** The nodes of the tree of metrics that match, as Graphite's treejson has them. */
export const find = (source, query) =>
  ask(proxied(source, `metrics/find?format=treejson&query=${encodeURIComponent(query)}`));

/** The series of a target: [{target, datapoints: [[value, seconds], …]}, …]. */
export const render = (source, target, range, most) =>
  ask(proxied(source, "render"), {
    method: "POST",
    body: new URLSearchParams({ target, from: `-${range}`, until: "now", format: "json", maxDataPoints: most }),
  });
