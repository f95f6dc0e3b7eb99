// The idle stop of a rented machine: shows the countdown and the cost of a start, and keeps the machine on request.

import { json } from "./api.js";

const $ = (id) => document.getElementById(id);
const ASK_EVERY_MS = 10_000;
const KEEP_MIN = 30;
let stopsAt = null; // performance.now() at which the machine stops; null while it stays on
let state = null;
let timers = [];

/** Shows the countdown until `end` is called, if the server's machine stops itself. */
export async function begin() {
  end();
  await ask();
  if (!state?.enabled) return;
  timers = [setInterval(() => document.hidden || ask(), ASK_EVERY_MS), setInterval(draw, 1000)];
}

/** Hides the countdown. */
export function end() {
  timers.forEach(clearInterval);
  timers = [];
  $("idle").hidden = true;
}

async function ask() {
  try {
    show(await json("v1/idle-stop"));
  } catch (problem) {
    if (problem.status === 401) end();
    else if (state?.enabled) $("idle-text").textContent = problem.detail ?? String(problem);
  }
}

function show(answer) {
  state = answer;
  stopsAt = answer.in_s === null ? null : performance.now() + answer.in_s * 1000;
  $("idle").hidden = !answer.enabled;
  const cost = answer.start_cost;
  $("idle-cost").textContent = cost
    ? `A start costs about ${cost.amount.toFixed(3)} ${cost.currency}: ${cost.minutes_until_ready} min until it is ready ` +
      `(assumed) and ${cost.minutes_until_stop} min until it stops.`
    : "";
  draw();
}

function draw() {
  const text = stopsAt === null
    ? `This machine stays on while a video is made or not yet collected; ${state.after_minutes} min later it stops.`
    : `This machine stops in ${spell(Math.max(0, stopsAt - performance.now()) / 1000)} unless a new video comes.`;
  if ($("idle-text").textContent !== text) $("idle-text").textContent = text;
}

function spell(seconds) {
  const whole = Math.floor(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")} min`;
}

async function keep() {
  $("keep").disabled = true;
  try {
    show(await json("v1/idle-stop/keep", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ minutes: KEEP_MIN }),
    }));
  } catch (problem) {
    $("idle-text").textContent = problem.detail ?? String(problem);
  } finally {
    $("keep").disabled = false;
  }
}

$("keep").addEventListener("click", keep);
