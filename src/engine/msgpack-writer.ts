// Writes MessagePack: the few types that KV events are made of, each in its shortest form.

const initialBytes = 512;

export class MsgpackWriter {
  #bytes = Buffer.allocUnsafe(initialBytes);
  #length = 0;

  /** What was written so far; the writer may go on, in other memory. */
  finish(): Buffer {
    const written = this.#bytes.subarray(0, this.#length);
    this.#bytes = Buffer.allocUnsafe(initialBytes);
    this.#length = 0;
    return written;
  }

  nil(): this {
    return this.#byte(0xc0);
  }

  /** An integer, ±2⁵³ at most; larger unsigned ones as bigint, below 2⁶⁴. */
  int(value: number | bigint): this {
    if (typeof value === 'bigint') return this.#bigint(value);
    if (value < 0) return this.#negative(value);
    if (value < 0x80) return this.#byte(value);
    if (value <= 0xff) return this.#byte(0xcc).#byte(value);
    if (value <= 0xffff) return this.#byte(0xcd).#put(2, (at) => this.#bytes.writeUInt16BE(value, at));
    if (value <= 0xffff_ffff) return this.#byte(0xce).#put(4, (at) => this.#bytes.writeUInt32BE(value, at));
    return this.#bigint(BigInt(value));
  }

  float64(value: number): this {
    return this.#byte(0xcb).#put(8, (at) => this.#bytes.writeDoubleBE(value, at));
  }

  str(text: string): this {
    const numBytes = Buffer.byteLength(text);
    if (numBytes < 32) this.#byte(0xa0 | numBytes);
    else this.#head(numBytes, 0xd9, 0xda, 0xdb);
    return this.#put(numBytes, (at) => this.#bytes.write(text, at));
  }

  bin(bytes: Uint8Array): this {
    this.#head(bytes.length, 0xc4, 0xc5, 0xc6);
    return this.#put(bytes.length, (at) => this.#bytes.set(bytes, at));
  }

  /** `numItems` values must follow. */
  array(numItems: number): this {
    return numItems < 16 ? this.#byte(0x90 | numItems) : this.#head(numItems, null, 0xdc, 0xdd);
  }

  /** `numEntries` times a key and a value must follow. */
  map(numEntries: number): this {
    return numEntries < 16 ? this.#byte(0x80 | numEntries) : this.#head(numEntries, null, 0xde, 0xdf);
  }

  #bigint(value: bigint): this {
    if (value <= Number.MAX_SAFE_INTEGER && value >= 0 && value <= 0xffff_ffffn)
      return this.int(Number(value));
    if (value < 0) return this.#byte(0xd3).#put(8, (at) => this.#bytes.writeBigInt64BE(value, at));
    return this.#byte(0xcf).#put(8, (at) => this.#bytes.writeBigUInt64BE(value, at));
  }

  #negative(value: number): this {
    if (value >= -32) return this.#byte(value & 0xff);
    if (value >= -0x80) return this.#byte(0xd0).#byte(value & 0xff);
    if (value >= -0x8000) return this.#byte(0xd1).#put(2, (at) => this.#bytes.writeInt16BE(value, at));
    if (value >= -0x8000_0000) return this.#byte(0xd2).#put(4, (at) => this.#bytes.writeInt32BE(value, at));
    return this.#bigint(BigInt(value));
  }

  /** Null: there is no form with a length of one byte. */
  #head(length: number, one: number | null, two: number, four: number): this {
    if (one !== null && length <= 0xff) return this.#byte(one).#byte(length);
    if (length <= 0xffff) return this.#byte(two).#put(2, (at) => this.#bytes.writeUInt16BE(length, at));
    return this.#byte(four).#put(4, (at) => this.#bytes.writeUInt32BE(length, at));
  }

  #byte(value: number): this {
    return this.#put(1, (at) => {
      this.#bytes[at] = value;
    });
  }

  #put(numBytes: number, write: (at: number) => void): this {
    const end = this.#length + numBytes;
    if (end > this.#bytes.length) {
      const larger = Buffer.allocUnsafe(Math.max(end, 2 * this.#bytes.length));
      this.#bytes.copy(larger, 0, 0, this.#length);
      this.#bytes = larger;
    }
    write(this.#length);
    this.#length = end;
    return this;
  }
}
