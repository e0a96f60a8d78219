// The import table of ARCHITECTURE.md as data: every import in src/ and commands/ must be allowed by it.
import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { test } from 'uvu';
import * as assert from 'uvu/assert';

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../..');

const vocabulary = new Set([
  'request',
  'outputs',
  'wire',
  'config',
  'engine-options',
  'errors',
  'log',
  'make-folder',
  'version',
]);

/** Layer → what it may import besides itself. A `type:` entry may be imported with `import type` only. */
const allowed: Record<string, readonly string[]> = {
  vocabulary: [],
  native: ['vocabulary'],
  'kv-store': ['vocabulary'],
  'kv-transfer': ['vocabulary', 'native', 'type:kv-store'],
  model: ['vocabulary', 'native'],
  core: ['vocabulary', 'type:kv-transfer'],
  worker: ['vocabulary', 'native', 'kv-transfer', 'model'],
  engine: ['vocabulary', 'native', 'kv-store', 'kv-transfer', 'model', 'core', 'worker'],
  server: ['vocabulary', 'engine', 'model', 'kv-transfer'],
  bench: ['vocabulary', 'server'],
  'micro-bench': ['vocabulary', 'native', 'kv-transfer', 'model', 'core', 'engine', 'server', 'bench'],
  chaos: ['vocabulary', 'model', 'kv-transfer', 'server', 'bench'],
  cli: ['vocabulary'],
  commands: ['vocabulary', 'cli', 'native', 'model', 'server', 'bench', 'micro-bench', 'chaos'],
  // The library's face and the packaging step see everything they name.
  index: [
    'vocabulary',
    'native',
    'kv-store',
    'kv-transfer',
    'model',
    'core',
    'worker',
    'engine',
    'server',
    'bench',
  ],
  bin: ['vocabulary'],
  'package-cli': ['vocabulary'],
};

/** Single modules that an otherwise closed layer may be entered through. */
const doors: Record<string, readonly RegExp[]> = {
  'server→kv-transfer': [/^src\/kv-transfer\/params\.ts$/],
  'bench→server': [/^src\/server\/cluster\.ts$/],
  'chaos→server': [/^src\/server\/(cluster|cluster-node|proxy\/proxy)\.ts$/],
  'chaos→kv-transfer': [/^src\/kv-transfer\/(frames|frame-seal|messages)\.ts$/],
  'micro-bench→engine': [/^src\/engine\/request-check\.ts$/],
  'micro-bench→server': [
    /^src\/server\/(cluster|http|http-answer|http-body|sse|api\/api-body|api\/cache-query-json|api\/openai-schema)\.ts$/,
  ],
  'micro-bench→bench': [/^src\/bench\/(format|host|results|render-table)\.ts$/],
};

interface Import {
  readonly from: string;
  readonly to: string;
  readonly typeOnly: boolean;
}

function layerOf(file: string): string {
  const parts = file.split('/');
  if (parts[0] === 'commands') return 'commands';
  if (parts.length > 2) return parts[1]!;
  const name = parts[1]!.replace(/\.ts$/, '');
  if (vocabulary.has(name)) return 'vocabulary';
  return name;
}

function sourceFiles(folder: string): string[] {
  return readdirSync(path.join(root, folder), { recursive: true, encoding: 'utf8' })
    .filter((file) => file.endsWith('.ts'))
    .map((file) => `${folder}/${file.split(path.sep).join('/')}`);
}

function importsOf(file: string): Import[] {
  const text = readFileSync(path.join(root, file), 'utf8');
  const statements = text.matchAll(
    /^(?:import|export)\s+(type\s)?(?:[^'";]*?\sfrom\s+)?'(\.[^']+)';|import\('(\.[^']+)'\)/gm,
  );
  return [...statements].map(([, type, fixed, dynamic]) => ({
    from: file,
    to: path.posix.join(path.posix.dirname(file), (fixed ?? dynamic)!).replace(/\.js$/, '.ts'),
    typeOnly: type !== undefined,
  }));
}

function violation({ from, to, typeOnly }: Import): string | null {
  const layer = layerOf(from);
  const target = layerOf(to);
  if (layer === target) return null;
  const targets = allowed[layer];
  if (!targets) return `${from}: layer '${layer}' is not in the import table`;
  if (!targets.includes(target) && !(typeOnly && targets.includes(`type:${target}`))) {
    return `${from} imports ${to}: ${layer} may not import ${target}`;
  }
  const entries = doors[`${layer}→${target}`];
  if (entries && !entries.some((entry) => entry.test(to))) {
    return `${from} imports ${to}: ${layer} enters ${target} only through ${entries.join(', ')}`;
  }
  return null;
}

const files = [...sourceFiles('src'), ...sourceFiles('commands')];
const imports = files.flatMap(importsOf);

test('every import follows the one-way table', () => {
  assert.equal(imports.map(violation).filter(Boolean), []);
});

test('no module imports itself in a circle', () => {
  const edges = new Map<string, string[]>();
  // Types count: files that cannot be understood one without the other are one file.
  for (const { from, to } of imports) edges.set(from, [...(edges.get(from) ?? []), to]);
  const done = new Set<string>();
  const visit = (file: string, trail: readonly string[]): string[] | null => {
    if (trail.includes(file)) return [...trail.slice(trail.indexOf(file)), file];
    if (done.has(file)) return null;
    for (const next of edges.get(file) ?? []) {
      const cycle = visit(next, [...trail, file]);
      if (cycle) return cycle;
    }
    done.add(file);
    return null;
  };
  for (const file of edges.keys()) assert.is(visit(file, []), null);
});

test('the table covers every file and has no dead layer', () => {
  const layers = new Set(files.map(layerOf));
  assert.equal(
    [...layers].filter((layer) => !(layer in allowed)),
    [],
  );
  assert.equal(
    Object.keys(allowed).filter((layer) => !layers.has(layer)),
    [],
  );
});

test('only one file of core, kv-transfer, model and worker layers loads the native module', () => {
  const loaders = files.filter((file) =>
    readFileSync(path.join(root, file), 'utf8').includes('createRequire'),
  );
  assert.equal(
    loaders.filter((file) => !['src/native.ts', 'src/package-cli.ts', 'src/bin.ts'].includes(file)),
    [],
  );
});

test.run();
