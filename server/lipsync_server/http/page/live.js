// Plays a video during its render: reads the job's stream and appends its pieces to a MediaSource.

import { Problem, request } from "./api.js";

// Seconds of video that are buffered before and after the playing time. The limit keeps the browser's memory small.
const AHEAD_S = 60;
const BEHIND_S = 30;
const RETRY_MS = 2000;

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Shows the finished part of a running job in `video`. Before the first picture it calls onBegin with the pace that the
 *  server reports ("live" or "slow"). Returns without an error if the job has no stream. */
export async function playLive(id, video, onBegin, signal) {
  if (!window.MediaSource) return;
  let answer;
  while (!answer) {
    try {
      answer = await request(`v1/jobs/${id}/stream`, { signal });
    } catch (problem) {
      // A proxy may time out before the first part is finished: then try again. An error from the server itself is final.
      if (!(problem instanceof Problem) || (problem.status >= 400 && problem.status < 500)) return;
      await pause(RETRY_MS);
      if (signal.aborted) return;
    }
  }
  const pace = answer.headers.get("Lipsync-Stream");
  const type = answer.headers.get("Content-Type") ?? "";
  const reader = answer.body.getReader();
  if (pace === "finished" || !MediaSource.isTypeSupported(type)) return void reader.cancel();
  onBegin(pace);
  const source = new MediaSource();
  const url = URL.createObjectURL(source);
  video.src = url;
  try {
    await once(source, "sourceopen", signal);
    const buffer = source.addSourceBuffer(type);
    video.play().catch(() => {}); // a browser that plays nothing by itself shows its button
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      await roomIn(buffer, video, signal);
      buffer.appendBuffer(value);
      await once(buffer, "updateend", signal);
    }
    if (source.readyState === "open") source.endOfStream();
  } catch {
    // The job failed or was cancelled, or the page shows another video. app.js shows the message.
    reader.cancel().catch(() => {});
  } finally {
    URL.revokeObjectURL(url);
  }
}

/** Waits while enough seconds are buffered, and removes the part that was played long ago. */
async function roomIn(buffer, video, signal) {
  while (buffer.buffered.length && buffer.buffered.end(buffer.buffered.length - 1) - video.currentTime > AHEAD_S) {
    await pause(500);
    if (signal.aborted) throw new Error("aborted");
  }
  const old = video.currentTime - BEHIND_S;
  if (buffer.buffered.length && old > buffer.buffered.start(0) + BEHIND_S) {
    buffer.remove(0, old);
    await once(buffer, "updateend", signal);
  }
}

function once(target, event, signal) {
  return new Promise((resolve, reject) => {
    target.addEventListener(event, resolve, { once: true });
    target.addEventListener("error", reject, { once: true });
    signal.addEventListener("abort", reject, { once: true });
  });
}
