// Requests to the server. Addresses are relative, so they work behind a path prefix too. An error carries the server's
// own sentence.

const KEY = "lipsync-token";

/** The token. sessionStorage keeps it until the tab is closed; localStorage would give it to every page of the origin. */
export const token = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => sessionStorage.setItem(KEY, value),
  clear: () => sessionStorage.removeItem(KEY),
};
localStorage.removeItem(KEY); // earlier versions kept the token there

/** The event on window for a refused token, for example a token that was revoked meanwhile. */
export const REFUSED = "lipsync-token-refused";

/** An error. `detail`: the server's sentence. `field`: the input with the error. `status`: 0 if the server gave no answer. */
export class Problem extends Error {
  constructor(status, detail, field = null, code = "") {
    super(detail);
    Object.assign(this, { status, detail, field, code });
  }
}

const NOT_REACHED = "The server was not reached. It may be restarting; check the connection and try again.";

function headers() {
  return token.get() ? { Authorization: `Bearer ${token.get()}` } : {};
}

function problemFrom(status, text) {
  const problem = worded(status, text);
  if (status === 401 && token.get()) {
    token.clear();
    dispatchEvent(new CustomEvent(REFUSED, { detail: problem.message }));
  }
  return problem;
}

function worded(status, text) {
  try {
    const body = JSON.parse(text);
    return new Problem(status, body.detail || body.title, body.field ?? null, body.code ?? "");
  } catch {
    return new Problem(status, `The server answered ${status}. A proxy in between may have cut the request.`);
  }
}

/** One request. Resolves to the answer; throws a Problem for a refused request or without an answer. */
export async function request(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, { ...options, headers: { ...headers(), ...options.headers } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, NOT_REACHED);
  }
  if (!answer.ok) throw problemFrom(answer.status, await answer.text());
  return answer;
}

/** One request whose answer is JSON. Resolves to null for an empty answer (204). */
export async function json(path, options) {
  const answer = await request(path, options);
  return answer.status === 204 ? null : answer.json();
}

function uniqueKey() {
  // Browsers have crypto.randomUUID on https pages only.
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Sends a job's form, and resolves to the job. XMLHttpRequest reports the progress of an upload; fetch cannot. */
export function submit(form, onProgress) {
  return new Promise((resolve, reject) => {
    const upload = new XMLHttpRequest();
    upload.open("POST", "v1/jobs");
    for (const [name, value] of Object.entries(headers())) upload.setRequestHeader(name, value);
    upload.setRequestHeader("Idempotency-Key", uniqueKey());
    upload.upload.onprogress = (event) => event.lengthComputable && onProgress(event.loaded / event.total);
    upload.onload = () =>
      upload.status === 202 ? resolve(JSON.parse(upload.responseText)) : reject(problemFrom(upload.status, upload.responseText));
    upload.onerror = () => reject(new Problem(0, NOT_REACHED));
    upload.send(form);
  });
}

const pause = (ms, signal) =>
  new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => { clearTimeout(timer); resolve(); }, { once: true });
  });

/** Calls onJob with every state of a job until it has ended. Reads server-sent events; polls if a proxy holds them back. */
export async function follow(id, onJob, signal) {
  const ended = (job) => ["succeeded", "failed", "cancelled"].includes(job.state);
  for (let wait = 1000; !signal.aborted; wait = Math.min(wait * 1.5, 10_000)) {
    try {
      if (await events(id, onJob, signal, ended)) return;
    } catch (error) {
      if (error.name === "AbortError") return;
      if (error instanceof Problem && error.status >= 400 && error.status < 500) throw error;
    }
    await pause(wait, signal);
    if (signal.aborted) return;
    try {
      const job = await json(`v1/jobs/${id}`, { signal });
      onJob(job);
      if (ended(job)) return;
    } catch (error) {
      if (error.name === "AbortError") return;
      if (error instanceof Problem && error.status >= 400 && error.status < 500) throw error;
    }
  }
}

async function events(id, onJob, signal, ended) {
  // EventSource cannot send the token, so this code reads the stream with fetch.
  const answer = await request(`v1/jobs/${id}/events`, { signal });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return false;
    text += value;
    const parts = text.split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      const data = part.split("\n").filter((line) => line.startsWith("data: ")).map((line) => line.slice(6)).join("\n");
      if (!data) continue;
      const job = JSON.parse(data);
      onJob(job);
      if (ended(job)) return true;
    }
  }
}

/** The captions of a finished video as an object URL. kind: srt or vtt. */
export async function captions(id, kind, signal) {
  const answer = await request(`v1/jobs/${id}/captions.${kind}`, { signal });
  return URL.createObjectURL(await answer.blob());
}

/** The contact sheet of a checked video as an object URL. */
export async function sheet(id, signal) {
  return made(id, "sheet", signal);
}

/** A file that was made with the video, such as "speech", the sound of its text, as an object URL. */
export async function made(id, part, signal) {
  const answer = await request(`v1/jobs/${id}/${part}`, { signal });
  return URL.createObjectURL(await answer.blob());
}

/** The finished video as an object URL; the browser keeps large blobs on disk. */
export async function video(id, onProgress, signal) {
  const answer = await request(`v1/jobs/${id}/video`, { signal });
  const total = Number(answer.headers.get("Content-Length")) || 0;
  let parts = [];
  let blob = new Blob([], { type: "video/mp4" });
  let seen = 0;
  let held = 0;
  for (const reader = answer.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    seen += value.length;
    held += value.length;
    if (held > 8_000_000) {
      blob = new Blob([blob, ...parts], { type: "video/mp4" });
      parts = [];
      held = 0;
    }
    if (total) onProgress(seen / total);
  }
  return URL.createObjectURL(new Blob([blob, ...parts], { type: "video/mp4" }));
}
