// The page: signs in, sends the form, shows the progress of the job and then its video, and lists the recent jobs.

import { captions, follow, json, made, Problem, REFUSED, sheet, submit, token, video } from "./api.js";
import * as form from "./form.js";
import * as idle from "./idle.js";
import { playLive } from "./live.js";

const $ = (id) => document.getElementById(id);
const LAST = "lipsync-last-job";
const STAGES = {
  queued: "Waiting", load: "Loading the engine", preprocess: "Looking and listening", generate: "Making the video",
  encode: "Writing the file", check: "Checking the video", store: "Handing it over", done: "Done",
};
let following = null;
let videoUrl = "";
let captionUrls = [];
let sheetUrl = "";
let shownId = "";
let live = null; // ends the stream of the job that is being rendered

async function start() {
  const held = token.get();
  try {
    await json("v1/me");
  } catch (problem) {
    if (problem.status === 401) return askForToken(held && problem.detail);
    $("server").textContent = problem.detail;
    return setTimeout(start, 3000);
  }
  $("token-form").hidden = true;
  $("sign-out").hidden = !token.get();
  $("make").hidden = false;
  await refreshServer();
  await refreshJobs();
  idle.begin();
  const last = sessionStorage.getItem(LAST);
  if (last) watch(last);
}

function askForToken(problem = "") {
  idle.end();
  for (const id of ["make", "job", "recent", "sign-out"]) $(id).hidden = true;
  $("token-form").hidden = false;
  $("token-problem").textContent = problem;
  $("token").focus();
}

async function refreshServer() {
  const info = await json("v1/engines");
  $("server").textContent = info.queue_length ? `${info.queue_length} waiting` : `ready: ${info.default}`;
  $("version").textContent = `Lipsync ${info.version}`;
  form.showEngines(info);
}

const STATES = { queued: "waiting", running: "running", succeeded: "ready", failed: "failed", cancelled: "cancelled" };

async function refreshJobs() {
  const { jobs } = await json("v1/jobs?limit=8");
  $("recent").hidden = jobs.length === 0;
  $("jobs").replaceChildren(...jobs.map((job) => {
    const row = document.createElement("li");
    const name = document.createElement("span");
    const state = document.createElement("span");
    const show = document.createElement("button");
    name.className = "name";
    name.textContent = job.file_name;
    state.className = "soft";
    state.textContent = `${STATES[job.state]}, ${new Date(job.created_at).toLocaleTimeString()}`;
    show.type = "button";
    show.className = "quiet";
    show.textContent = "Show";
    show.setAttribute("aria-label", `Show ${job.file_name}`);
    show.addEventListener("click", () => watch(job.id, true));
    row.append(name, state, show);
    return row;
  }));
}

async function send(event) {
  event.preventDefault();
  form.clearProblems();
  const body = form.body();
  if (!body) return;
  $("submit").disabled = true;
  $("upload").hidden = false;
  try {
    const job = await submit(body, (part) => ($("upload-bar").value = part));
    watch(job.id, true);
  } catch (problem) {
    if (problem.status === 401) askForToken(problem.detail);
    else form.showProblem(problem instanceof Problem ? problem : new Problem(0, String(problem)));
  } finally {
    $("submit").disabled = false;
    $("upload").hidden = true;
    $("upload-bar").value = 0;
  }
}

async function watch(id, focus = false) {
  following?.abort();
  following = new AbortController();
  const { signal } = following;
  sessionStorage.setItem(LAST, id);
  shownId = "";
  forgetVideo();
  $("job").hidden = false;
  $("job-problem").textContent = "";
  $("job-done").hidden = true;
  $("job-running").hidden = false;
  $("job-stage").textContent = "Waiting";
  $("job-bar").removeAttribute("value");
  $("cancel").onclick = () => cancel(id);
  if (focus) $("job-title").focus();
  try {
    await follow(id, (job) => !signal.aborted && show(job, signal), signal);
  } catch (problem) {
    if (signal.aborted) return;
    sessionStorage.removeItem(LAST);
    if (problem.status === 401) return askForToken(problem.detail);
    $("job-running").hidden = true;
    $("job-problem").textContent = problem.detail ?? String(problem);
  }
}

function show(job, signal) {
  $("job-title").textContent = job.file_name;
  const running = job.state === "queued" || job.state === "running";
  $("job-running").hidden = !running;
  if (running) {
    if (!live) showLive(job.id);
    const { stage, fraction, note, expected_finish } = job.progress;
    const place = job.queue_position ? `, ${job.queue_position} before it` : "";
    $("job-stage").textContent = `${STAGES[stage] ?? stage}${place}`;
    if (job.state === "running") $("job-bar").value = fraction;
    const left = expected_finish ? Math.max(0, (new Date(expected_finish) - Date.now()) / 1000) : null;
    $("job-note").textContent = [note, left === null ? "" : `about ${spell(left)} left`].filter(Boolean).join("; ");
    return;
  }
  refreshJobs().catch(() => {});
  if (job.state === "succeeded" && shownId !== job.id) {
    shownId = job.id;
    showVideo(job, signal);
  }
  if (job.state === "failed") $("job-problem").textContent = job.error?.detail ?? "It failed.";
  if (job.state === "cancelled") $("job-problem").textContent = "It was cancelled.";
  if (job.state !== "succeeded") {
    stopLive();
    sessionStorage.removeItem(LAST);
  }
}

/** Plays the finished part of the video during the render. */
function showLive(id) {
  live = new AbortController();
  const { signal } = live;
  playLive(id, $("live"), (pace) => {
    if (signal.aborted) return;
    $("live-note").textContent = pace === "live"
      ? "This is the video as it is being made."
      : "This is the video as it is being made; playing waits for the rest now and then.";
    $("job-live").hidden = false;
  }, signal);
}

function stopLive() {
  live?.abort();
  live = null;
  $("job-live").hidden = true;
  $("live").removeAttribute("src");
  $("live").load();
}

async function showVideo(job, signal) {
  const { result } = job;
  $("job-done").hidden = false;
  $("facts").textContent =
    `${result.duration_s.toFixed(1)} s, ${result.width} x ${result.height}, engine ${job.engine}, ` +
    `${result.render_s.toFixed(1)} s of work` + (job.cost ? `, ${job.cost.amount.toFixed(4)} ${job.cost.currency}` : "");
  $("warnings").replaceChildren(...result.warnings.map((text) => Object.assign(document.createElement("li"), { textContent: text })));
  $("download").hidden = true;
  try {
    videoUrl = await video(job.id, (part) => ($("video-loading").textContent = `Fetching ${Math.round(part * 100)} %`), signal);
  } catch (problem) {
    if (signal.aborted) return;
    $("job-done").hidden = true;
    $("job-problem").textContent = problem.detail ?? String(problem);
    return;
  }
  $("video-loading").textContent = "";
  const { currentTime, ended, paused } = $("live");
  const wasLive = !$("job-live").hidden;
  stopLive();
  $("video").src = videoUrl;
  if (wasLive && !ended) {
    // The finished video starts at the time at which the live one was.
    $("video").currentTime = currentTime;
    if (!paused) $("video").play().catch(() => {});
  }
  Object.assign($("download"), { href: videoUrl, download: job.file_name, hidden: false });
  await showCaptions(job, signal);
  await showCheck(job, signal);
}

/** The score, the findings and the contact sheet; hidden for a video that was not checked. */
async function showCheck(job, signal) {
  const { quality } = job.result;
  if (!quality || !job.links.sheet) return;
  $("score").textContent = quality.score === null ? "Check: no score" : `Check: score ${quality.score.toFixed(2)} of 1`;
  $("findings").replaceChildren(...quality.findings.map(({ from_s, to_s, sentence }) =>
    Object.assign(document.createElement("li"), { textContent: `${from_s.toFixed(1)} to ${to_s.toFixed(1)} s: ${sentence}` })));
  $("quality").hidden = false;
  $("quality").open = quality.score !== null && quality.score < 0.6;
  try {
    sheetUrl = await sheet(job.id, signal);
    $("sheet").src = $("sheet-link").href = sheetUrl;
  } catch (problem) {
    if (!signal.aborted) $("job-problem").textContent = problem.detail ?? String(problem);
  }
}

/** Links to the captions and the spoken text as files. A video without them has none. */
async function showCaptions(job, signal) {
  if (job.links.speech) {
    const url = await made(job.id, "speech", signal);
    captionUrls.push(url);
    Object.assign($("speech"), { href: url, download: job.file_name.replace(/\.mp4$/i, ".wav"), hidden: false });
  }
  if (!job.links.captions_srt) return;
  for (const kind of ["srt", "vtt"]) {
    try {
      const url = await captions(job.id, kind, signal);
      captionUrls.push(url);
      const name = job.file_name.replace(/\.mp4$/i, `.${kind}`);
      Object.assign($(`captions-${kind}`), { href: url, download: name, hidden: false });
    } catch (problem) {
      if (!signal.aborted) $("job-problem").textContent = problem.detail ?? String(problem);
      return;
    }
  }
}

function forgetVideo() {
  stopLive();
  $("video").removeAttribute("src");
  if (videoUrl) URL.revokeObjectURL(videoUrl);
  videoUrl = "";
  captionUrls.forEach((url) => URL.revokeObjectURL(url));
  captionUrls = [];
  if (sheetUrl) URL.revokeObjectURL(sheetUrl);
  sheetUrl = "";
  $("sheet").removeAttribute("src");
  $("quality").hidden = true;
  for (const id of ["captions-srt", "captions-vtt", "speech"]) $(id).hidden = true;
}

async function cancel(id) {
  $("cancel").disabled = true;
  try {
    await json(`v1/jobs/${id}`, { method: "DELETE" });
  } catch (problem) {
    $("job-problem").textContent = problem.detail;
  } finally {
    $("cancel").disabled = false;
  }
}

function spell(seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

$("token-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  token.set($("token").value.trim());
  try {
    await json("v1/me");
  } catch (problem) {
    token.clear();
    return askForToken(problem.detail);
  }
  $("token").value = "";
  start();
});
addEventListener(REFUSED, (event) => {
  following?.abort();
  forgetVideo();
  askForToken(event.detail);
});
$("sign-out").addEventListener("click", () => {
  token.clear();
  sessionStorage.removeItem(LAST);
  following?.abort();
  forgetVideo();
  askForToken();
});
$("make").addEventListener("submit", send);
$("again").addEventListener("click", () => {
  sessionStorage.removeItem(LAST);
  following?.abort();
  forgetVideo();
  $("job").hidden = true;
  $("image").focus();
});
form.prepareFiles();
start();
