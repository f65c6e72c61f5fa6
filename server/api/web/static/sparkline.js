// The server's load over the last minute, from the same counters that Prometheus reads.

const KEPT = 60;

export class Sparkline {
  #line; #words; #rates = []; #last = null;

  constructor(line, words) {
    this.#line = line;
    this.#words = words;
  }

  // Counters as they stand now: seconds, target_tokens, requests, request_seconds.
  take(now) {
    const last = this.#last;
    this.#last = now;
    if (!last || now.seconds <= last.seconds || now.target_tokens < last.target_tokens) return;
    const rate = (now.target_tokens - last.target_tokens) / (now.seconds - last.seconds);
    this.#rates = [...this.#rates, rate].slice(-KEPT);
    this.#draw();
    const requests = now.requests - last.requests;
    const mean = requests ? (now.request_seconds - last.request_seconds) / requests : null;
    const time = mean === null ? "" : `, ${Math.round(mean * 1000)} ms a request`;
    this.#words.textContent = `${Math.round(rate).toLocaleString("en")} tokens/s${time}`;
  }

  #draw() {
    const top = Math.max(...this.#rates, 1);
    const points = this.#rates.map((rate, index) => {
      const x = 120 - 2 * (this.#rates.length - 1 - index);
      return `${x},${(23 - 22 * (rate / top)).toFixed(1)}`;
    });
    this.#line.setAttribute("points", points.join(" "));
  }
}
