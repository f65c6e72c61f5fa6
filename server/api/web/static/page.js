// Type a text and see its translation stream in.

import { HeatMap } from "./heatmap.js";
import * as server from "./server.js";
import { Sparkline } from "./sparkline.js";

const AUTO = "";
const PAUSE_MS = 250;
const POLL_MS = 1000;

const at = (id) => document.getElementById(id);
const source = at("source");
const target = at("target");
const map = new HeatMap(at("attention-map"), at("attention-words"));
const sparkline = new Sparkline(at("sparkline-rate"), at("load-words"));
const names = new Intl.DisplayNames(["en"], { type: "language" });

let pairs = [];
let running = new AbortController();
let pause = 0;
let looked = null;
// Whether what is shown is the translation of what is typed.
let settled = false;

function request() {
  return { text: source.value, source_language: at("from").value, target_language: at("to").value };
}

function nameOf(code) {
  try {
    return names.of(code);
  } catch {
    return code;
  }
}

function options(select, codes, chosen) {
  const made = codes.map(([code, words]) => new Option(words, code, false, code === chosen));
  select.replaceChildren(...made);
}

function showTargets() {
  const from = at("from").value;
  const fitting = pairs.filter((pair) => from === AUTO || pair.source === from);
  const codes = [...new Set(fitting.map((pair) => pair.target))];
  const before = at("to").value;
  options(at("to"), codes.map((code) => [code, nameOf(code)]), before);
  target.lang = at("to").value;
}

async function showModels() {
  const answer = await server.models();
  pairs = answer.pairs;
  const codes = [...new Set(pairs.map((pair) => pair.source))];
  options(at("from"), [[AUTO, "Detect language"], ...codes.map((code) => [code, nameOf(code)])], AUTO);
  showTargets();
}

function later() {
  clearTimeout(pause);
  settled = false;
  at("count").textContent = source.value ? `${[...source.value].length} characters` : "";
  pause = setTimeout(translate, PAUSE_MS);
}

async function translate() {
  running.abort();
  running = new AbortController();
  const { signal } = running;
  forget();
  if (!source.value.trim()) return;
  target.setAttribute("aria-busy", "true");
  try {
    for await (const event of server.translate(request(), signal)) show(event);
    settled = true;
    await showOpen(signal);
  } catch (error) {
    if (!signal.aborted) complain(error);
  } finally {
    if (!signal.aborted) target.setAttribute("aria-busy", "false");
  }
}

function forget() {
  target.textContent = "";
  target.setAttribute("aria-busy", "false");
  at("problem").hidden = true;
  at("warnings").hidden = true;
  at("copy").disabled = true;
  for (const id of ["timing", "done", "detected"]) at(id).textContent = "";
  at("alternatives-list").replaceChildren();
  looked = null;
  map.clear("");
}

function show(event) {
  if (event.delta !== undefined) target.append(event.delta);
  else if (event.error !== undefined) throw new server.Refusal(event.status, event.error);
  else showResult(event.result);
}

function showResult(result) {
  target.textContent = result.text;
  at("copy").disabled = !result.text;
  at("done").textContent = "Translation done";
  const detected = result.detected_language;
  at("detected").textContent = detected ? `Detected: ${nameOf(detected)}` : "";
  const tokens = `${result.source_tokens} → ${result.target_tokens} tokens`;
  const times = ["queue", "encode", "decode", "total"].map((of) => `${of} ${result.ms[of].toFixed(1)}`);
  at("timing").textContent = `${times.join(" · ")} ms · ${tokens} · ${result.rows.toFixed(1)} rows a step`;
  at("model").textContent = `${result.model.name} ${result.model.digest.slice(0, 12)}`;
  const list = at("warnings");
  list.replaceChildren(...result.warnings.map((words) => item(words)));
  list.hidden = !result.warnings.length;
}

function item(words) {
  const made = document.createElement("li");
  made.textContent = words;
  return made;
}

function complain(error) {
  if (error.name === "AbortError") return;
  if (error.status === 401) {
    at("access").hidden = false;
    at("access").open = true;
  }
  at("problem").textContent = error.message;
  at("problem").hidden = false;
}

// What is asked for only while its section is open.
async function showOpen(signal) {
  const wanted = [];
  if (at("alternatives").open) wanted.push(showAlternatives(signal));
  if (at("attention").open) wanted.push(showAttention(signal));
  await Promise.all(wanted);
}

async function showAlternatives(signal) {
  const answer = await server.alternatives(request(), signal);
  const sentences = answer.sentences.map((sentence) => {
    const made = item(sentence.source);
    const list = document.createElement("ul");
    for (const candidate of sentence.candidates) {
      const line = item("");
      const score = document.createElement("span");
      score.className = "score";
      score.textContent = candidate.score.toFixed(2);
      const words = document.createElement("span");
      words.textContent = candidate.text;
      words.lang = at("to").value;
      line.append(score, words);
      list.append(line);
    }
    made.append(list);
    return made;
  });
  at("alternatives-list").replaceChildren(...sentences);
}

async function showAttention(signal) {
  looked = (await server.attention(request(), signal)).sentences;
  options(at("attention-sentence"), looked.map((_, index) => [index, index + 1]), 0);
  const first = looked[0];
  if (!first) return;
  const layers = first.weights.map((_, index) => [index, `decoder ${index + 1}`]);
  const heads = first.weights[0].map((_, index) => [index, index + 1]);
  options(at("attention-layer"), [["", "all, mean"], ...layers], at("attention-layer").value);
  options(at("attention-head"), [["", "all, mean"], ...heads], at("attention-head").value);
  drawAttention();
}

function drawAttention() {
  const sentence = looked?.[Number(at("attention-sentence").value)];
  if (!sentence) return;
  const chosen = (of, value) => (value === "" ? of : [of[Number(value)]]);
  const layers = chosen(sentence.weights, at("attention-layer").value);
  const tables = layers.flatMap((heads) => chosen(heads, at("attention-head").value));
  const mean = sentence.target_pieces.map((_, t) =>
    sentence.source_pieces.map((_, s) => tables.reduce((sum, table) => sum + table[t][s], 0) / tables.length),
  );
  map.draw(sentence.target_pieces, sentence.source_pieces, mean);
}

async function copy() {
  if (navigator.clipboard) await navigator.clipboard.writeText(target.textContent);
  else copySelected(); // browsers keep the clipboard from pages without encryption
  at("done").textContent = "Copied";
  at("copy").textContent = "Copied";
  setTimeout(() => { at("copy").textContent = "Copy"; }, 1500);
}

function copySelected() {
  getSelection().selectAllChildren(target);
  document.execCommand("copy");
  getSelection().removeAllRanges();
}

async function poll() {
  if (!document.hidden) {
    try {
      sparkline.take(await server.load());
    } catch {
      at("load-words").textContent = "the server does not answer";
    }
  }
  setTimeout(poll, POLL_MS);
}

async function start() {
  source.addEventListener("input", later);
  at("form").addEventListener("submit", (event) => event.preventDefault());
  at("from").addEventListener("change", () => { showTargets(); translate(); });
  at("to").addEventListener("change", () => { target.lang = at("to").value; translate(); });
  at("copy").addEventListener("click", copy);
  for (const id of ["alternatives", "attention"]) {
    at(id).addEventListener("toggle", () => {
      if (at(id).open && settled) showOpen(running.signal).catch(complain);
    });
  }
  for (const id of ["attention-sentence", "attention-layer", "attention-head"]) {
    at(id).addEventListener("change", drawAttention);
  }
  at("key").addEventListener("change", () => {
    server.useKey(at("key").value);
    begin();
  });
  await begin();
  poll();
}

async function begin() {
  try {
    await showModels();
    at("problem").hidden = true;
    if (source.value.trim()) await translate();
  } catch (error) {
    complain(error);
  }
}

start();
