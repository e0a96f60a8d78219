// How deep a JSON text is nested, seen without parsing it: a few megabytes of brackets cost seconds to parse, and what
// they parse to makes recursive code run out of stack.

const bracketOpen = 0x5b;
const bracketClose = 0x5d;
const braceOpen = 0x7b;
const braceClose = 0x7d;
const quote = 0x22;
const backslash = 0x5c;

/** Whether lists and objects in `json` (UTF-8) nest deeper than `limit`. Of text that is no JSON it may say anything. */
export function nestsDeeperThan(json: Buffer, limit: number): boolean {
  return hasMoreThan(json, limit) && scan(json, limit);
}

/** Whether there are more opening brackets than that: where there are not, as around a long prompt, nothing can nest. */
function hasMoreThan(json: Buffer, limit: number): boolean {
  let numOpen = 0;
  for (const open of [bracketOpen, braceOpen]) {
    for (let at = json.indexOf(open); at >= 0; at = json.indexOf(open, at + 1)) {
      if (++numOpen > limit) return true;
    }
  }
  return false;
}

function scan(json: Buffer, limit: number): boolean {
  let depth = 0;
  for (let i = 0; i < json.length; i++) {
    const byte = json[i];
    if (byte === quote) {
      i = endOfString(json, i);
    } else if (byte === bracketOpen || byte === braceOpen) {
      if (++depth > limit) return true;
    } else if (byte === bracketClose || byte === braceClose) {
      depth--;
    }
  }
  return false;
}

/** Index of the quote that ends the string beginning at `start`; the end of the text if none does. */
function endOfString(json: Buffer, start: number): number {
  for (let end = json.indexOf(quote, start + 1); end >= 0; end = json.indexOf(quote, end + 1)) {
    let numBackslashes = 0;
    while (json[end - 1 - numBackslashes] === backslash) numBackslashes++;
    if (numBackslashes % 2 === 0) return end;
  }
  return json.length;
}
