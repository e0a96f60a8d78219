// Stores that are full, failing, slow, damaged or emptied, and blocks that would travel twice.
import type { Defence } from '../defence.js';

const failing = ['test/kv-store/failing-stores.test.ts'];
const stores = ['test/kv-store/stores.test.ts'];
const plan = ['test/kv-transfer/load-plan.test.ts'];

export const storeDefences: readonly Defence[] = [
  {
    against: 'a record that was damaged in its store',
    file: 'src/kv-store/block-record.ts',
    text: '!checksum(record).equals(record.subarray(checksumAt, recordHeaderBytes))',
    instead: 'record.length === 0',
    tests: ['test/kv-store/any-record.test.ts'],
  },
  {
    against: 'the record of one block under the name of another',
    file: 'src/kv-store/block-record.ts',
    text: "record.toString('hex', 8, 40) === expected.hash &&",
    instead: '',
    tests: stores,
  },
  {
    against: 'a record of another model',
    file: 'src/kv-store/block-record.ts',
    text: "record.toString('hex', 40, 72) === expected.namespace &&",
    instead: '',
    tests: ['test/kv-store/any-record.test.ts'],
  },
  {
    against: 'a damaged file that stays and is read again and again',
    file: 'src/kv-store/directory-store.ts',
    text: `    this.#index.remove(hash);
    await this.#unlink(hash);
    return null;`,
    instead: '    return null;',
    tests: stores,
  },
  {
    against: 'a store that does not answer',
    file: 'src/kv-store/guarded-store.ts',
    text: 'await Promise.race([work(), timeout])',
    instead: 'await work()',
    tests: failing,
  },
  {
    against: 'a store that fails',
    file: 'src/kv-store/guarded-store.ts',
    text: `      this.#failed(what, error);
      return otherwise;`,
    instead: '      throw error;',
    tests: failing,
  },
  {
    against: 'a failing store that every request waits for once more',
    file: 'src/kv-store/guarded-store.ts',
    text: 'if (!this.isOpen) return otherwise;',
    instead: '',
    tests: failing,
  },
  {
    against: 'a slow store whose queue fills the memory',
    file: 'src/kv-store/write-behind.ts',
    text: 'this.#queuedBytes + numBytes <= this.#maxQueuedBytes',
    instead: 'numBytes <= this.#maxQueuedBytes',
    tests: failing,
  },
  {
    against: 'blocks that a full store did not take and that pass for stored',
    file: 'src/kv-store/write-behind.ts',
    text: 'const isHeld = numWritten === missing.length ? null : await this.#store.has(hashes);',
    instead: 'const isHeld: readonly boolean[] | null = null as readonly boolean[] | null;',
    tests: failing,
  },
  {
    against: 'a write that fails and ends all later ones',
    file: 'src/kv-store/write-behind.ts',
    text: `      } catch {
        this.#numDropped += batch.length;
      }`,
    instead: '      } finally {}',
    tests: failing,
  },
  {
    against: 'a store that grows beyond its capacity',
    file: 'src/kv-store/store-index.ts',
    text: 'this.#numBytes + numNewBytes > capacityBytes',
    instead: 'numNewBytes > capacityBytes',
    tests: stores,
  },
  {
    against: 'a block that is larger than its store',
    file: 'src/kv-store/store-index.ts',
    text: 'this.#limits.capacityBytes === null || numBytes <= this.#limits.capacityBytes',
    instead: 'numBytes > 0',
    tests: stores,
  },
  {
    against: 'blocks that are older than the store keeps them',
    file: 'src/kv-store/store-index.ts',
    text: 'ttlMs !== null && nowMs - entry.writtenAtMs >= ttlMs',
    instead: 'ttlMs !== null && nowMs < 0',
    tests: stores,
  },
  {
    against: 'files that a dying writer left half written',
    file: 'src/kv-store/directory-store.ts',
    text: 'const temporary = this.#temporary();',
    instead: 'const temporary = file;',
    tests: failing,
  },
  {
    against: 'temporary files of dead writers',
    file: 'src/kv-store/directory-scan.ts',
    text: 'nowMs - found.mtimeMs > staleAfterMs',
    instead: 'nowMs < 0',
    tests: failing,
  },
  {
    against: 'a directory that is deleted under its store',
    file: 'src/kv-store/directory-store.ts',
    text: "await makeFolder(this.#folder('tmp')).catch(() => {});",
    instead: '',
    tests: failing,
  },
  {
    against: 'a Redis server that is away',
    file: 'src/kv-store/redis-store.ts',
    text: 'return this.#client.isReady;',
    instead: 'return true;',
    tests: failing,
  },
  {
    against: 'a store that lost a block which the peer still has',
    file: 'src/kv-transfer/tiered-read.ts',
    text: 'await this.#fromPeer(secondTry(this.#spec, lost));',
    instead: '',
    tests: ['test/kv-transfer/tiered-read.test.ts', 'test/promises/stores.test.ts'],
  },
  {
    against: 'a store that gives a block of another size',
    file: 'src/kv-transfer/tiered-read.ts',
    text: '!data || data.length !== pool.blockBytes',
    instead: '!data',
    tests: ['test/kv-transfer/tiered-read.test.ts'],
  },
  {
    against: 'a block that comes from a peer although both can read it in the shared store',
    file: 'src/kv-transfer/load-plan.ts',
    text: "hopPlanner ? (store ?? (isAtPeer ? 'peer' : null)) :",
    instead: '',
    tests: [...plan, 'test/promises/stores.test.ts'],
  },
  {
    against: 'two hops that nobody counts',
    file: 'src/kv-transfer/load-plan.ts',
    text: "source === 'peer' && stores.includes('shared')",
    instead: 'false',
    tests: plan,
  },
  {
    against: 'a hand-over that sends blocks which D could read in the shared store',
    file: 'src/kv-transfer/load-planner.ts',
    text: 'stores.blocks.believe(missing.filter((hash) => named.has(hash)));',
    instead: '',
    tests: ['test/promises/stores.test.ts'],
  },
];
