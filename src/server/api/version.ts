// The package's version, for GET /version.
import { readFileSync } from 'node:fs';

/** From package.json, which lies three folders above the compiled file. */
export function packageVersion(): string {
  const text = readFileSync(new URL('../../../../package.json', import.meta.url), 'utf8');
  return (JSON.parse(text) as { version: string }).version;
}
