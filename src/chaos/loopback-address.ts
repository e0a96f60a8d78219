// Addresses of this machine that nothing else listens on: what comes back under its address finds its port still free.

/** All of 127.0.0.0/8 is this machine; systems that run at the same time had better not meet. */
export function someLoopbackAddress(): string {
  const part = () => 1 + Math.floor(Math.random() * 254);
  return `127.${part()}.${part()}.${part()}`;
}
