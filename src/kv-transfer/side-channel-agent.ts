// A node's transfer agent: one listening socket, one connection a peer, and per peer shm or tcp for its blocks.
import type { AgentKind } from '../config.js';
import { messageOf, VllmPdError } from '../errors.js';
import type { Logger } from '../log.js';
import type { HoldTable } from '../native/hold-table.js';
import type { KvPool } from '../native/kv-pool.js';
import { loadNative } from '../native.js';
import type { FinishedSend, PullSpec, RemoteBlocks } from '../outputs.js';
import { type ReadResult, type TransferAgent, type TransferPath, transferPaths } from './agent.js';
import { MappedPool } from './agent-shm.js';
import { TcpPeer } from './agent-tcp.js';
import { newNonce } from './authentication.js';
import { decodeAck, encodeNotif, maxJsonBytes, protocolVersion, type Welcome } from './messages.js';
import { PeerConnection } from './peer-connection.js';
import type { PeerPolicy } from './peer-policy.js';
import type { SideChannelServer } from './side-channel-server.js';

interface Peer {
  readonly connection: PeerConnection;
  /** What blocks are read from. */
  readonly blocks: MappedPool | TcpPeer;
}

export interface SideChannelAgentOptions {
  readonly host: string;
  readonly port: number;
  readonly kind: AgentKind;
  readonly pool: KvPool;
  readonly holds: HoldTable;
  readonly identity: Welcome;
  readonly server: SideChannelServer;
  readonly logger: Logger;
  /** The shared key; null = none was given. */
  readonly key: string | null;
  readonly peers: PeerPolicy;
  /** How long an owner may take to let this node in, or to confirm a notification. */
  readonly timeoutMs: number;
}

export class SideChannelAgent implements TransferAgent {
  readonly host: string;
  readonly port: number;
  readonly holds: HoldTable;
  readonly #kind: AgentKind;
  readonly #pool: KvPool;
  readonly #identity: Welcome;
  readonly #server: SideChannelServer;
  readonly #logger: Logger;
  readonly #key: string | null;
  readonly #policy: PeerPolicy;
  readonly #timeoutMs: number;
  /** By engine id: connections that stand or are being made. */
  readonly #peers = new Map<string, Promise<Peer>>();
  readonly #transports = new Map<string, 'shm' | 'tcp'>();
  /** By engine id: bytes read one-sided that the owner has not been told of. */
  readonly #unseenBytes = new Map<string, number>();
  readonly #unmapping = new Set<Promise<void>>();
  readonly #received: Record<TransferPath, number> = { shm: 0, cuda_ipc: 0, staged: 0, tcp: 0 };
  #numDamagedBlocks = 0;
  readonly #closing = new AbortController();

  constructor(options: SideChannelAgentOptions) {
    this.host = options.host;
    this.port = options.port;
    this.holds = options.holds;
    this.#kind = options.kind;
    this.#pool = options.pool;
    this.#identity = options.identity;
    this.#server = options.server;
    this.#logger = options.logger;
    this.#key = options.key;
    this.#policy = options.peers;
    this.#timeoutMs = options.timeoutMs;
  }

  get bytesSent(): number {
    return this.#server.bytesSent;
  }

  get bytesReceived(): number {
    return transferPaths.reduce((sum, path) => sum + this.#received[path], 0);
  }

  get bytesReceivedBy(): Readonly<Record<TransferPath, number>> {
    return this.#received;
  }

  get numDamagedBlocks(): number {
    return this.#numDamagedBlocks;
  }

  transportOf(engineId: string): 'shm' | 'tcp' | null {
    return this.#transports.get(engineId) ?? null;
  }

  onNotif(listener: (notif: FinishedSend) => boolean): void {
    this.#server.onNotif(listener);
  }

  read(pull: PullSpec, into: KvPool, signal?: AbortSignal): Promise<ReadResult> {
    return this.#withPeer(pull.remote, signal, (peer) => this.#readFrom(peer, pull, into));
  }

  async sendNotif(remote: RemoteBlocks, numBlocks: number): Promise<boolean | null> {
    const { engineId, requestId } = remote;
    const numUnseenBytes = this.#unseenBytes.get(engineId) ?? 0;
    this.#unseenBytes.delete(engineId);
    const timeout = new AbortController();
    const timer = setTimeout(() => timeout.abort(), this.#timeoutMs);
    try {
      const encode = (seq: number) => encodeNotif({ seq, requestId, numBlocks, numUnseenBytes });
      const ack = await this.#withPeer(remote, timeout.signal, ({ connection }) =>
        connection.request('notif', encode, 'ack'),
      );
      return decodeAck(ack);
    } catch (error) {
      // The owner's lease ends the hold instead.
      this.#logger.warn(`Peer ${engineId} was not told that ${requestId} is done: ${messageOf(error)}`);
      return null;
    } finally {
      clearTimeout(timer);
    }
  }

  async close(): Promise<void> {
    this.#closing.abort();
    await Promise.all([...this.#peers.values()].map(ended));
    await this.#server.close();
    await Promise.all(this.#unmapping);
  }

  /** Runs `use` on the peer's connection; once more on a new one if that broke. An abort breaks it for good. */
  async #withPeer<T>(
    remote: RemoteBlocks,
    signal: AbortSignal | undefined,
    use: (peer: Peer) => Promise<T>,
  ): Promise<T> {
    for (let isRetry = false; ; isRetry = true) {
      const peer = await unlessAborted(this.#peer(remote), signal);
      // Late data cannot arrive on a connection that is gone.
      const abort = () => peer.connection.destroy();
      signal?.addEventListener('abort', abort, { once: true });
      try {
        return await use(peer);
      } catch (error) {
        if (isRetry || signal?.aborted || !peer.connection.isClosed) throw error;
        // Only then is it forgotten, and a new one made.
        await peer.connection.closed;
      } finally {
        signal?.removeEventListener('abort', abort);
      }
    }
  }

  #peer(remote: RemoteBlocks): Promise<Peer> {
    if (this.#closing.signal.aborted) {
      return Promise.reject(new VllmPdError('PEER_FAILED', 'The transfer agent is closed.'));
    }
    const known = this.#peers.get(remote.engineId);
    if (known) return known;
    const forget = () => {
      if (this.#peers.get(remote.engineId) === peer) this.#peers.delete(remote.engineId);
    };
    const peer = this.#connect(remote, forget);
    this.#peers.set(remote.engineId, peer);
    peer.catch(forget);
    return peer;
  }

  async #connect({ host, port, engineId }: RemoteBlocks, onClose: () => void): Promise<Peer> {
    if (!this.#policy.allows(host, port)) {
      throw new VllmPdError('PEER_FAILED', `${host}:${port} is not among this node's KV peers.`);
    }
    const connection = await PeerConnection.open({
      address: { host, port },
      hello: {
        protocol: 'vllm-pd-kv',
        version: protocolVersion,
        compatibility_hash: this.#identity.compatibility_hash,
        engine_id: this.#identity.engine_id,
        expected_engine_id: engineId,
        nonce: newNonce(),
      },
      key: this.#key,
      maxBodyBytes: maxJsonBytes,
      timeoutMs: this.#timeoutMs,
      signal: this.#closing.signal,
    });
    const onBytes = (numBytes: number) => {
      this.#received.tcp += numBytes;
    };
    const onDamaged = (numBlocks: number) => {
      this.#numDamagedBlocks += numBlocks;
      this.#logger.warn(`${numBlocks} blocks of peer ${engineId} were damaged on their way.`);
    };
    const mapped = this.#map(connection);
    const blocks = mapped ?? new TcpPeer({ connection, host, onBytes, onDamaged });
    this.#transports.set(engineId, mapped ? 'shm' : 'tcp');
    void connection.closed.then(() => {
      onClose();
      if (!mapped) return;
      const unmapping = mapped.close().finally(() => this.#unmapping.delete(unmapping));
      this.#unmapping.add(unmapping);
    });
    return { connection, blocks };
  }

  /** Null where the pool is to be read, or can only be read, over the connection. */
  #map(connection: PeerConnection): MappedPool | null {
    const { host_identity, pid, pool_fd, num_blocks } = connection.welcome;
    if (this.#kind === 'tcp') return null;
    if (this.#kind === 'auto' && host_identity !== this.#identity.host_identity) return null;
    try {
      // Process ids of another host, or of another pid namespace, would name somebody else here.
      if (host_identity !== this.#identity.host_identity) throw new Error('it runs on another host');
      const layout = { ...this.#pool.layout, numBlocks: num_blocks };
      return new MappedPool(loadNative().openPeerPool(pid, pool_fd, layout));
    } catch (cause) {
      if (this.#kind === 'auto') {
        this.#logger.info(`The pool of process ${pid} is read over tcp: ${messageOf(cause)}`);
        return null;
      }
      connection.destroy();
      throw new VllmPdError('PEER_FAILED', `The pool of process ${pid} cannot be mapped.`, { cause });
    }
  }

  async #readFrom(peer: Peer, pull: PullSpec, into: KvPool): Promise<ReadResult> {
    const numPeerBlocks = peer.connection.welcome.num_blocks;
    const firstUnknown = pull.remoteBlockIds.findIndex((id) => id >= numPeerBlocks);
    if (firstUnknown !== -1) return this.#readPrefix(peer, pull, firstUnknown, into);
    if (peer.blocks instanceof TcpPeer) return peer.blocks.read(pull, into);
    const result = await peer.blocks.read(pull, into);
    this.#received[peer.blocks.pathTo(into)] += result.numBytes;
    const { engineId } = pull.remote;
    this.#unseenBytes.set(engineId, (this.#unseenBytes.get(engineId) ?? 0) + result.numBytes);
    return result;
  }

  /** The params name a block that the peer's pool does not have: what stands before it may still be good. */
  async #readPrefix(peer: Peer, pull: PullSpec, numBlocks: number, into: KvPool): Promise<ReadResult> {
    const valid = new Uint8Array(pull.remoteBlockIds.length);
    if (numBlocks === 0) return { valid, numBytes: 0 };
    const prefix = {
      ...pull,
      remoteBlockIds: pull.remoteBlockIds.slice(0, numBlocks),
      localBlockIds: pull.localBlockIds.slice(0, numBlocks),
      blockHashes: pull.blockHashes.slice(0, numBlocks),
    };
    const result = await this.#readFrom(peer, prefix, into);
    valid.set(result.valid);
    return { valid, numBytes: result.numBytes };
  }
}

/** Resolves when the peer's connection is closed, or never came to be. */
async function ended(connecting: Promise<Peer>): Promise<void> {
  const peer = await connecting.catch(() => null);
  if (peer) await peer.connection.closed;
}

/** The work goes on for others who wait for it; only this wait ends. */
function unlessAborted<T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (!signal) return work;
  return new Promise((resolve, reject) => {
    const abort = () => reject(new VllmPdError('PEER_FAILED', 'The peer took too long.'));
    if (signal.aborted) abort();
    signal.addEventListener('abort', abort, { once: true });
    work.then(resolve, reject).finally(() => signal.removeEventListener('abort', abort));
  });
}
