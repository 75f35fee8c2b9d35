// The page: speech to /v1/listen, files to /v1/audio/transcriptions, words to read. No library, no build step.

const DOUBTFUL = 0.85, UNSURE = 0.5; // confidences below which a word is shown so
const UNSENT_SECONDS = 10; // of audio that waits for the network, after which speaking is ended

const element = (id) => document.getElementById(id);
const [model, speak, state, live, partial, trouble] =
  ["model", "speak", "state", "live", "partial", "trouble"].map(element);

// The server's key, where it has one, is kept as long as the tab.
let key = sessionStorage.getItem("key") ?? "";

function complain(sentence) {
  trouble.textContent = sentence;
  trouble.hidden = !sentence;
}

// Words.

function shade(confidence) {
  return confidence < UNSURE ? "unsure" : confidence < DOUBTFUL ? "doubtful" : "";
}

// Minutes, of which an hour may have more than 60, and seconds.
function clock(seconds) {
  const tenths = Math.round(10 * seconds);
  return `${String(Math.floor(tenths / 600)).padStart(2, "0")}:${((tenths % 600) / 10).toFixed(1).padStart(4, "0")}`;
}

function wordElement(word, kind = "span") {
  const shown = document.createElement(kind);
  shown.className = `word ${shade(word.confidence ?? 1)}`;
  shown.textContent = word.text;
  if (word.confidence !== undefined) {
    shown.title = `${Math.round(100 * word.confidence)} % sure, at ${clock(word.start)}`;
  }
  return shown;
}

function fill(container, words, kind) {
  words.forEach((word) => container.append(wordElement(word, kind), " "));
}

// Downloads: segments are lists of words, each {text, start, end, confidence}.

const textOf = (words) => words.map((word) => word.text).join(" ");
const FORMS = {
  txt: (segments) => segments.map(textOf).join("\n") + "\n",
  srt: (segments) => subtitles("srt", segments),
  vtt: (segments) => subtitles("vtt", segments),
  json: (segments) => JSON.stringify({
    text: segments.map(textOf).join(" "),
    segments: segments.map((words) => ({ start: words[0].start, end: words.at(-1).end, text: textOf(words), words })),
  }, null, 1) + "\n",
};

// The server parts words into cues, as it does those of a file.
async function subtitles(format, segments) {
  const answer = await fetch("/v1/subtitles", {
    method: "POST",
    headers: { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) },
    body: JSON.stringify({ format, segments }),
  });
  if (answer.status === 401) lock();
  if (answer.ok) return answer.text();
  const refusal = await answer.json().catch(() => null);
  throw new Error(refusal?.error?.message ?? `the server answered ${answer.status}`);
}

function offer(group, name, segments) {
  group.hidden = false;
  group.replaceChildren(...Object.keys(FORMS).map((form) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = `.${form}`;
    button.setAttribute("aria-label", `Download as ${form}`);
    button.onclick = () => save(form, name, segments.filter((words) => words.length));
    return button;
  }));
}

async function save(form, name, segments) {
  try {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([await FORMS[form](segments)]));
    link.download = `${name}.${form}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  } catch (error) {
    complain(`${name}.${form} was not written: ${error.message}.`);
  }
}

// Speaking.

let session = null;
const said = []; // segments of all that was said since the page was opened
let shift = 0; // seconds of the sessions before, so that times go on

class Session {
  static async open() {
    const own = new Session();
    own.stream = await navigator.mediaDevices.getUserMedia({
      audio: { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false },
    });
    try {
      own.context = new AudioContext(); // at the device's own rate: the server resamples
      await own.context.audioWorklet.addModule("/worklet.js");
      await own.connect();
    } catch (error) {
      own.release();
      throw error;
    }
    const mono = { numberOfOutputs: 0, channelCount: 1, channelCountMode: "explicit" };
    own.microphone = new AudioWorkletNode(own.context, "microphone", mono);
    own.microphone.port.onmessage = ({ data }) => own.send(data);
    own.context.createMediaStreamSource(own.stream).connect(own.microphone);
    own.stream.getAudioTracks()[0].onended = () => own.finish();
    return own;
  }

  connect() {
    const address = new URL("/v1/listen", location);
    address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    const { sampleRate } = this.context;
    address.search = new URLSearchParams({ sample_rate: sampleRate, encoding: "float32", model: model.value });
    this.socket = new WebSocket(address, key ? ["listen", `openai-insecure-api-key.${key}`] : ["listen"]);
    this.socket.binaryType = "arraybuffer";
    this.socket.onmessage = ({ data }) => this.hear(JSON.parse(data));
    return new Promise((resolve, reject) => {
      this.socket.onopen = resolve;
      this.socket.onclose = (event) => {
        reject(new Error("The server took no stream: it may have too many, or be gone."));
        this.closed(event);
      };
    });
  }

  send(samples) {
    if (samples === null) return this.socket.send('{"type": "finish"}');
    if (this.socket.readyState !== WebSocket.OPEN) return;
    if (this.socket.bufferedAmount > UNSENT_SECONDS * 4 * this.context.sampleRate) {
      complain("The connection is too slow for speech, or the server too busy; speaking was ended.");
      return this.finish();
    }
    this.socket.send(samples);
    const peak = samples.reduce((most, sample) => Math.max(most, Math.abs(sample)), 0);
    element("level").firstElementChild.style.transform = `scaleX(${Math.min(1, Math.sqrt(peak))})`;
  }

  hear(event) {
    this.heard = event.time;
    const words = event.words.map((word) => ({ ...word, start: word.start + shift, end: word.end + shift }));
    if (event.kind === "partial") {
      partial.replaceChildren();
      fill(partial, words);
      return;
    }
    if (words.length) {
      if (!this.line) {
        live.append(this.line = document.createElement("p"));
        said.push(this.segment = []);
      }
      const below = live.scrollHeight - live.scrollTop - live.clientHeight < 40;
      fill(this.line, words);
      this.segment.push(...words);
      if (below) live.scrollTop = live.scrollHeight;
      offer(element("live-save"), "speech", said);
    }
    if (event.ends) this.line = null;
  }

  finish() {
    if (this.finishing) return;
    this.finishing = true;
    state.textContent = "Finishing…";
    busy(true);
    this.microphone.port.postMessage(null); // what it still holds comes, then null
  }

  closed({ code, reason }) {
    this.release();
    partial.replaceChildren();
    shift += this.heard ?? 0;
    if (session === this) {
      session = null;
      ready();
      const why = reason ? `The server ended the stream: ${reason}.` : "The connection to the server was lost.";
      if (code !== 1000) complain(why);
    }
  }

  release() {
    this.stream?.getTracks().forEach((track) => track.stop());
    if (this.context && this.context.state !== "closed") this.context.close();
    element("level").firstElementChild.style.transform = "";
  }
}

// Not "disabled", which would take the keyboard's focus away from under whoever pressed it.
function busy(is) {
  speak.setAttribute("aria-disabled", String(is));
}

function ready() {
  speak.disabled = false;
  busy(false);
  speak.textContent = "Start speaking";
  speak.setAttribute("aria-pressed", "false");
  state.textContent = "Ready.";
}

speak.onclick = async () => {
  if (speak.getAttribute("aria-disabled") === "true") return;
  if (session) return session.finish();
  complain("");
  if (!navigator.mediaDevices || !window.AudioWorkletNode) {
    return complain("A browser gives the microphone only to pages of this computer (localhost) or over https.");
  }
  busy(true);
  state.textContent = "Asking for the microphone…";
  try {
    session = await Session.open();
    speak.textContent = "Stop";
    speak.setAttribute("aria-pressed", "true");
    busy(false);
    state.textContent = "Listening.";
  } catch (error) {
    ready();
    const denied = { NotAllowedError: "The microphone was not allowed.", NotFoundError: "There is no microphone." };
    complain(denied[error.name] ?? error.message);
  }
};

// Recordings, one upload at a time.

const waiting = [];
let uploading = false;

function take(files) {
  for (const file of files) {
    const card = element("recording").content.firstElementChild.cloneNode(true);
    card.querySelector("h3").textContent = file.name;
    card.querySelector(".state").textContent = "Waiting…";
    card.querySelector(".cancel").setAttribute("aria-label", `Cancel ${file.name}`);
    element("recordings").prepend(card);
    const job = { file, card };
    card.querySelector(".cancel").onclick = () => job.request ? job.request.abort() : stopped(job, "Cancelled.");
    waiting.push(job);
  }
  next();
}

function next() {
  if (uploading || !waiting.length) return;
  const job = waiting.shift();
  if (job.done) return next();
  uploading = true;
  upload(job);
}

function stopped(job, sentence) {
  job.done = true;
  if (document.activeElement === job.card.querySelector(".cancel")) job.card.focus();
  job.card.querySelector("progress").hidden = job.card.querySelector(".cancel").hidden = true;
  job.card.querySelector(".state").textContent = sentence;
}

function upload(job) {
  const { file, card } = job;
  const [progress, status] = [card.querySelector("progress"), card.querySelector(".state")];
  const request = job.request = new XMLHttpRequest();
  const form = new FormData();
  form.append("model", model.value);
  form.append("response_format", "verbose_json");
  for (const detail of ["word", "segment"]) form.append("timestamp_granularities[]", detail);
  form.append("file", file);
  status.textContent = "Uploading…";
  request.upload.onprogress = (event) => {
    if (event.lengthComputable) progress.value = event.loaded / event.total;
  };
  request.upload.onload = () => {
    progress.removeAttribute("value"); // the work has no measure
    status.textContent = "Transcribing…";
  };
  request.onload = () => {
    let answer = null;
    try { answer = JSON.parse(request.responseText); } catch { /* no JSON: said below */ }
    if (request.status === 200 && answer) return show(job, answer);
    if (request.status === 401) lock();
    const why = answer?.error?.message ?? `the server answered ${request.status}`;
    stopped(job, `Not transcribed: ${why}.`.replace(/\.\.$/, "."));
  };
  request.onerror = () => stopped(job, "Not transcribed: the connection to the server was lost.");
  request.onabort = () => stopped(job, "Cancelled.");
  request.onloadend = () => { uploading = false; next(); };
  request.open("POST", "/v1/audio/transcriptions");
  if (key) request.setRequestHeader("Authorization", `Bearer ${key}`);
  request.send(form);
}

function show(job, answer) {
  const { file, card } = job;
  const words = (answer.words ?? []).map(({ word, ...rest }) => ({ text: word, ...rest }));
  const segments = divided(words, answer.segments ?? []);
  const count = words.length === 1 ? "1 word" : `${words.length} words`;
  stopped(job, [`${count} in ${Math.round(answer.duration)} s of audio.`, ...(answer.warnings ?? [])].join(" "));
  const [player, text] = [card.querySelector("audio"), card.querySelector(".words")];
  player.src = URL.createObjectURL(file);
  player.setAttribute("aria-label", file.name);
  player.hidden = text.hidden = false;
  text.setAttribute("role", "group");
  text.setAttribute("aria-label", `Words of ${file.name}: choose one to hear it`);
  const buttons = [];
  for (const segment of segments) {
    const line = document.createElement("p");
    for (const word of segment) {
      const button = wordElement(word, "button");
      button.type = "button";
      button.tabIndex = buttons.length ? -1 : 0; // one stop of the Tab key; arrows go from word to word
      button.onclick = () => { player.currentTime = word.start; player.play(); };
      buttons.push(button);
      line.append(button, " ");
    }
    text.append(line);
  }
  text.onkeydown = (event) => walk(event, buttons);
  follow(player, words, buttons);
  if (words.length) offer(card.querySelector(".save"), file.name.replace(/\.[^.]*$/, ""), segments);
}

// Words by the segments that they lie in: the last one that begins no later.
function divided(words, segments) {
  const all = segments.map(() => []);
  let at = 0;
  for (const word of words) {
    while (at + 1 < segments.length && word.start >= segments[at + 1].start) at++;
    (all[at] ??= []).push(word);
  }
  return all.filter((segment) => segment.length);
}

function walk(event, buttons) {
  const at = buttons.indexOf(document.activeElement);
  const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: buttons.length - 1 }[event.key];
  if (at < 0 || to === undefined || !buttons[to]) return;
  event.preventDefault();
  buttons[at].tabIndex = -1;
  buttons[to].tabIndex = 0;
  buttons[to].focus();
}

function follow(player, words, buttons) {
  let now = null;
  player.ontimeupdate = () => {
    const at = words.findLastIndex((word) => word.start <= player.currentTime);
    if (buttons[at] === now) return;
    now?.classList.remove("now");
    now = buttons[at] ?? null;
    now?.classList.add("now");
  };
}

element("files").onchange = ({ target }) => { take(target.files); target.value = ""; };
const drop = element("drop");
// The whole window takes files: one dropped beside the field would else be opened in the page's place.
window.addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
window.addEventListener("dragleave", (event) => { if (!event.relatedTarget) drop.classList.remove("over"); });
window.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  take(event.dataTransfer.files);
});

// The models, and the key.

function lock() {
  element("unlock").hidden = false;
  element("key").focus();
}

element("unlock").onsubmit = (event) => {
  event.preventDefault();
  key = element("key").value.trim();
  sessionStorage.setItem("key", key);
  begin();
};

async function begin() {
  complain("");
  try {
    const answer = await fetch("/v1/models", { headers: key ? { Authorization: `Bearer ${key}` } : {} });
    if (answer.status === 401) {
      state.textContent = "This server needs its key.";
      return lock();
    }
    if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
    const { data } = await answer.json();
    model.replaceChildren(...data.map(({ id }) => new Option(id, id)));
    model.disabled = false;
    element("unlock").hidden = true;
    ready();
  } catch (error) {
    state.textContent = "Not connected.";
    complain(`The models cannot be listed: ${error.message}.`);
  }
}

begin();
