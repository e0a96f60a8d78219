// Server-sent events from a byte stream that may be cut anywhere.
import { StringDecoder } from 'node:string_decoder';

/** Collects bytes and gives back the `data` of each event that is complete. Comments and other fields are skipped. */
export class SseParser {
  readonly #decoder = new StringDecoder('utf8');
  #rest = '';
  #data: string[] = [];

  push(bytes: Uint8Array): string[] {
    const lines = (this.#rest + this.#decoder.write(Buffer.from(bytes))).split('\n');
    this.#rest = lines.pop()!;
    const events: string[] = [];
    for (const rawLine of lines) {
      const line = rawLine.endsWith('\r') ? rawLine.slice(0, -1) : rawLine;
      if (line.startsWith('data:')) this.#data.push(line.slice(5).replace(/^ /, ''));
      if (line !== '' || this.#data.length === 0) continue;
      events.push(this.#data.join('\n'));
      this.#data = [];
    }
    return events;
  }
}
