// What the page asks of the server. Everything stays on the host that served the page.

let key = sessionStorage.getItem("dragoman-key") ?? "";

export function useKey(value) {
  key = value.trim();
  sessionStorage.setItem("dragoman-key", key);
}

// An answer that is no translation: its status and the server's own words.
export class Refusal extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function ask(path, body, signal) {
  const headers = body ? { "content-type": "application/json" } : {};
  if (key) headers.authorization = `Bearer ${key}`;
  const request = { method: body ? "POST" : "GET", headers, signal };
  if (body) request.body = JSON.stringify(body);
  const response = await fetch(`web/${path}`, request);
  if (!response.ok) throw new Refusal(response.status, await wordsOf(response));
  return response;
}

async function wordsOf(response) {
  try {
    return (await response.json()).error;
  } catch {
    return `the server answered ${response.status}`;
  }
}

export async function models() {
  return (await ask("models")).json();
}

export async function load() {
  return (await ask("load")).json();
}

export async function alternatives(request, signal) {
  return (await ask("alternatives", request, signal)).json();
}

export async function attention(request, signal) {
  return (await ask("attention", request, signal)).json();
}

// Events of a translation as they come: {delta}, and at last {result} or {error}.
export async function* translate(request, signal) {
  const response = await ask("translate", request, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) if (line) yield JSON.parse(line);
  }
}
