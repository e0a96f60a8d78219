// Reads MessagePack for tests, by the specification's table of first bytes.

export type Unpacked = null | number | bigint | string | Buffer | Unpacked[] | { [key: string]: Unpacked };

export function unpack(bytes: Buffer): Unpacked {
  let at = 0;
  const take = (numBytes: number) => {
    if (at + numBytes > bytes.length) throw new Error('the message ends too early');
    at += numBytes;
    return bytes.subarray(at - numBytes, at);
  };
  const list = (length: number) => Array.from({ length }, () => read());
  const map = (length: number) =>
    Object.fromEntries(list(2 * length).flatMap((key, i, all) => (i % 2 === 0 ? [[key, all[i + 1]]] : [])));
  const read = (): Unpacked => {
    const type = take(1)[0]!;
    if (type < 0x80) return type;
    if (type < 0x90) return map(type & 0x0f);
    if (type < 0xa0) return list(type & 0x0f);
    if (type < 0xc0) return take(type & 0x1f).toString('utf8');
    if (type >= 0xe0) return type - 0x100;
    switch (type) {
      case 0xc0:
        return null;
      case 0xc4:
        return take(take(1).readUInt8());
      case 0xc5:
        return take(take(2).readUInt16BE());
      case 0xcb:
        return take(8).readDoubleBE();
      case 0xcc:
        return take(1).readUInt8();
      case 0xcd:
        return take(2).readUInt16BE();
      case 0xce:
        return take(4).readUInt32BE();
      case 0xcf:
        return take(8).readBigUInt64BE();
      case 0xd0:
        return take(1).readInt8();
      case 0xd1:
        return take(2).readInt16BE();
      case 0xd2:
        return take(4).readInt32BE();
      case 0xd3:
        return take(8).readBigInt64BE();
      case 0xd9:
        return take(take(1).readUInt8()).toString('utf8');
      case 0xda:
        return take(take(2).readUInt16BE()).toString('utf8');
      case 0xdc:
        return list(take(2).readUInt16BE());
      case 0xdd:
        return list(take(4).readUInt32BE());
      case 0xde:
        return map(take(2).readUInt16BE());
      default:
        throw new Error(`no type of MessagePack that is expected here: 0x${type.toString(16)}`);
    }
  };
  const value = read();
  if (at !== bytes.length) throw new Error(`${bytes.length - at} bytes behind the message`);
  return value;
}
