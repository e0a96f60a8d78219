// The owner's side of one handshake: hello → challenge → proof → welcome, or the reason why not.
import { type Exchange, isSameProof, newNonce, proofOf } from './authentication.js';
import { FrameSeal, sealKey } from './frame-seal.js';
import { encodeFrame, type Frame } from './frames.js';
import { refusalOf, versionRefusal } from './handshake.js';
import { decodeHello, decodeProof, encodeJson, type Hello, type Welcome } from './messages.js';

export type GreetingStep =
  | { readonly kind: 'asks'; readonly answer: Buffer }
  | { readonly kind: 'welcomes'; readonly answer: Buffer; readonly seals: Seals }
  | { readonly kind: 'refuses'; readonly reason: string };

/** What the frames behind the handshake carry; the welcome is the owner's first. */
export interface Seals {
  readonly sent: FrameSeal;
  readonly received: FrameSeal;
  /** Seals what is asked for on data connections. */
  readonly readKey: Buffer;
}

export class Greeting {
  readonly #identity: Welcome;
  readonly #key: string | null;
  #hello: Hello | null = null;
  #exchange: Exchange | null = null;

  constructor(identity: Welcome, key: string | null) {
    this.#identity = identity;
    this.#key = key;
  }

  /** What to answer to the next frame of a reader that is not known yet. Throws PEER_FAILED for one that makes no sense. */
  next({ type, body }: Frame): GreetingStep {
    if (!this.#exchange || !this.#hello) {
      if (type !== 'hello') return refuses(`Expected a hello but received ${type}.`);
      return this.#challenge(body);
    }
    if (type !== 'proof') return refuses(`Expected a proof but received ${type}.`);
    // Until here a stranger has learnt nothing about this node.
    if (!isSameProof(decodeProof(body), proofOf('reader', this.#key, this.#exchange))) {
      return refuses('The KV transfer keys of the two nodes differ.');
    }
    const reason = refusalOf(this.#hello, this.#identity);
    if (reason !== null) return refuses(reason);
    const seals = {
      sent: new FrameSeal('owner', this.#key, this.#exchange),
      received: new FrameSeal('reader', this.#key, this.#exchange),
      readKey: sealKey('reads', this.#key, this.#exchange),
    };
    return { kind: 'welcomes', answer: seals.sent.seal('welcome', encodeJson(this.#identity)), seals };
  }

  #challenge(body: Buffer): GreetingStep {
    const reason = versionRefusal(body);
    if (reason !== null) return refuses(reason);
    this.#hello = decodeHello(body);
    this.#exchange = { hello: body, ownerNonce: newNonce() };
    const proof = proofOf('owner', this.#key, this.#exchange);
    const challenge = { nonce: this.#exchange.ownerNonce, proof };
    return { kind: 'asks', answer: encodeFrame('challenge', encodeJson(challenge)) };
  }
}

function refuses(reason: string): GreetingStep {
  return { kind: 'refuses', reason };
}
