// The form: two files or a picture and a text, a microphone, and the fields that the chosen engine offers.

const $ = (id) => document.getElementById(id);
const OWN_FIELDS = new Set(["seed", "face_index", "face_box", "preset", "resolution"]);

const files = { image: null, audio: null };
let engines = [];
let chosenByAuto = "";

/** The chosen file, or null. name: image or audio. */
export function chosen(name) {
  return files[name];
}

/** Takes a file as the picture or the recording, and shows it. */
export function choose(name, file) {
  files[name] = file;
  $(`${name}-problem`).textContent = "";
  $(`${name}-name`).textContent = file ? file.name : "";
  const preview = $(`${name}-preview`);
  if (preview.src) URL.revokeObjectURL(preview.src);
  const shown = file && (name === "audio" || file.type.startsWith("image/"));
  preview.hidden = !shown;
  if (shown) preview.src = URL.createObjectURL(file);
  else preview.removeAttribute("src");
}

/** Connects the two file inputs, the places to drop files, and the microphone. */
export function prepareFiles() {
  for (const name of ["image", "audio"]) {
    const input = $(name);
    const zone = $(`${name}-drop`);
    input.addEventListener("change", () => input.files[0] && choose(name, input.files[0]));
    // The invisible input covers the zone, so every browser drops a file on it. This code adds the highlight, and accepts
    // a file that was dropped beside the input.
    for (const target of [input, zone]) {
      target.addEventListener("dragover", (event) => { event.preventDefault(); zone.classList.add("over"); });
      target.addEventListener("dragleave", () => zone.classList.remove("over"));
      target.addEventListener("drop", (event) => {
        event.preventDefault();
        zone.classList.remove("over");
        if (event.dataTransfer.files[0]) choose(name, event.dataTransfer.files[0]);
      });
    }
  }
  // The browser would open a file that is dropped elsewhere, in place of the page.
  for (const kind of ["dragover", "drop"]) window.addEventListener(kind, (event) => event.preventDefault());
  $("image-preview").addEventListener("error", () => ($("image-preview").hidden = true));
  prepareMicrophone();
}

function prepareMicrophone() {
  const button = $("record");
  let recorder = null;
  if (!navigator.mediaDevices || !window.MediaRecorder) {
    button.hidden = true; // plain http from another machine: browsers give no microphone there
    return;
  }
  const idle = () => {
    recorder = null;
    button.setAttribute("aria-pressed", "false");
    button.textContent = "Record with the microphone";
  };
  button.addEventListener("click", async () => {
    if (recorder) return recorder.stop();
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ audio: true });
    } catch {
      $("audio-problem").textContent = "The browser gave no microphone. Allow it in the address bar, or pick a file.";
      return;
    }
    const parts = [];
    recorder = new MediaRecorder(stream);
    recorder.addEventListener("dataavailable", (event) => parts.push(event.data));
    recorder.addEventListener("stop", () => {
      stream.getTracks().forEach((track) => track.stop());
      const type = recorder.mimeType || "audio/webm";
      choose("audio", new File(parts, `recording.${type.includes("mp4") ? "m4a" : "webm"}`, { type }));
      idle();
    });
    recorder.start(1000);
    button.setAttribute("aria-pressed", "true");
    button.textContent = "Stop recording";
  });
}

/** Fills the list of engines and the options of the chosen one. info: the answer of v1/engines. */
export function showEngines(info) {
  engines = info.engines;
  chosenByAuto = info.default;
  const select = $("engine");
  const before = select.value;
  select.replaceChildren(new Option(`Auto (${info.default})`, "auto"));
  for (const engine of engines) {
    const option = new Option(engine.available ? engine.title : `${engine.title} (not available)`, engine.name);
    option.disabled = !engine.available;
    select.append(option);
  }
  select.value = before || "auto";
  select.onchange = () => showOptions(info);
  showOptions(info);
}

function showOptions(info) {
  const name = $("engine").value;
  const engine = engines.find((one) => one.name === (name === "auto" ? chosenByAuto : name));
  $("engine-note").textContent = name === "auto" ? info.default_reason : engine?.reason ?? "";
  for (const [field, values] of [["preset", engine?.presets ?? []], ["resolution", engine?.resolutions ?? []]]) {
    $(`${field}-field`).hidden = values.length < 2;
    $(field).replaceChildren(new Option(`default (${info.defaults[field]})`, ""), ...values.map((value) => new Option(value, value)));
  }
  const properties = Object.entries(engine?.options_schema?.properties ?? {});
  $("engine-options").replaceChildren(...properties.map(([field, schema]) => optionField(field, schema)).filter(Boolean));
}

function optionField(name, schema) {
  const kind = schema.anyOf ? { ...schema, ...schema.anyOf.find((one) => one.type !== "null") } : schema;
  const input = OWN_FIELDS.has(name) ? null : inputFor(kind);
  if (!input) return null;
  const box = document.createElement("div");
  const label = document.createElement("label");
  box.className = "field";
  input.id = `option-${name}`;
  input.dataset.option = name;
  label.htmlFor = input.id;
  label.textContent = (schema.title ?? name).replaceAll("_", " ");
  if (input.type === "checkbox") label.prepend(input), box.append(label);
  else box.append(label, input);
  if (schema.description) {
    const note = document.createElement("p");
    note.className = "soft";
    note.id = `${input.id}-note`;
    note.textContent = schema.description;
    input.setAttribute("aria-describedby", note.id);
    box.append(note);
  }
  return box;
}

function inputFor(schema) {
  if (schema.enum) {
    const select = document.createElement("select");
    select.append(new Option(schema.default == null ? "default" : `default (${schema.default})`, ""), ...schema.enum.map((value) => new Option(value, value)));
    return select;
  }
  const input = document.createElement("input");
  if (schema.type === "boolean") {
    input.type = "checkbox";
    input.checked = input.defaultChecked = Boolean(schema.default);
  } else if (schema.type === "number" || schema.type === "integer") {
    input.type = "number";
    input.step = schema.type === "integer" ? "1" : "any";
    for (const [limit, key] of [["min", "minimum"], ["max", "maximum"]]) if (schema[key] != null) input[limit] = schema[key];
    input.placeholder = schema.default ?? "";
  } else if (schema.type === "string") {
    input.placeholder = schema.default ?? "";
    if (schema.maxLength) input.maxLength = schema.maxLength;
  } else return null;
  return input;
}

/** The engine's own options that differ from their defaults. */
function engineOptions() {
  const options = {};
  for (const input of document.querySelectorAll("[data-option]")) {
    if (input.type === "checkbox") {
      if (input.checked !== input.defaultChecked) options[input.dataset.option] = input.checked;
    } else if (input.value !== "") options[input.dataset.option] = input.type === "number" ? Number(input.value) : input.value;
  }
  return options;
}

/** The form fields of captions; no fields without spoken words, written or recognised. */
function captionFields() {
  const script = $("script").value.trim();
  if (!script && !spokenText() && !$("recognise").checked) return [];
  const show = $("caption-show").value;
  const drawn = [["captions", "burned"], ["caption_style", show]];
  return [...(script ? [["script", script]] : []), ...(show === "track" ? [["captions", "track"]] : drawn)];
}

function spokenText() {
  return $("text").value.trim();
}

/** Whether the form has one sound: a recording, or words to speak. Shows the fault beside its field. */
function hasOneSound() {
  const both = files.audio && spokenText();
  $("audio-problem").textContent = files.audio || spokenText() ? "" : "Choose a recording first, or write words to speak.";
  $("text-problem").textContent = both ? "There is a recording, too. Empty this field, or reload the page and choose no recording." : "";
  if (both) $("speech-box").open = true;
  return !both && Boolean(files.audio || spokenText());
}

/** The multipart body; null if a file is missing, with a message beside its field. */
export function body() {
  $("image-problem").textContent = files.image ? "" : "Choose a picture first.";
  const hasSound = hasOneSound();
  if (!files.image || !hasSound) {
    $(!files.image ? "image" : files.audio ? "text" : "audio").focus();
    return null;
  }
  const form = new FormData();
  const plain = ["prompt", "engine", "preset", "resolution", "file_name", "seed", "face_index"];
  for (const name of [...plain, "format", "height", "lead_silence_s", "loudness_lufs", "check", "retries_below", "label", "voice", "language"])
    if ($(name).value !== "" && !$(name).closest("[hidden]")) form.append(name, $(name).value);
  if ($("label").value && $("label_corner").value) form.append("label_corner", $("label_corner").value);
  if (spokenText()) form.append("text", spokenText());
  for (const [name, value] of captionFields()) form.append(name, value);
  const options = engineOptions();
  if (Object.keys(options).length) form.append("options", JSON.stringify(options));
  // Files last: the server refuses a bad field before it reads a large upload.
  form.append("image", files.image, files.image.name);
  if (files.audio) form.append("audio", files.audio, files.audio.name);
  return form;
}

/** Shows the server's sentence beside the field with the error. */
export function showProblem(problem) {
  const field = (problem.field ?? "").split(".")[0];
  const byCode = problem.code.includes("image") || problem.code === "no_face" ? "image" : problem.code.includes("audio") ? "audio" : "";
  const place = $(`${field}-problem`) ?? $(`${byCode}-problem`) ?? $("form-problem");
  place.textContent = problem.detail;
  const input = $(place.id.replace("-problem", ""));
  if (place.closest("details")) place.closest("details").open = true;
  input?.focus?.();
}

/** Removes all messages beside fields. */
export function clearProblems() {
  for (const place of document.querySelectorAll("#make .problem")) place.textContent = "";
}
