// One error class, one table of codes: what the server answers with and what a command exits with.

interface ErrorKind {
  /** HTTP status that the server answers with. */
  readonly status: number;
  /** `error.type` of the JSON body, vLLM's names. */
  readonly type: string;
  /** Exit code of a command that ends with this error. */
  readonly exitCode: number;
}

const kinds = {
  INVALID_ARGUMENT: { status: 400, type: 'BadRequestError', exitCode: 2 },
  PROMPT_TOO_LONG: { status: 400, type: 'BadRequestError', exitCode: 2 },
  UNAUTHORIZED: { status: 401, type: 'AuthenticationError', exitCode: 1 },
  NOT_FOUND: { status: 404, type: 'NotFoundError', exitCode: 2 },
  METHOD_NOT_ALLOWED: { status: 405, type: 'MethodNotAllowedError', exitCode: 1 },
  BODY_TOO_LARGE: { status: 413, type: 'BadRequestError', exitCode: 1 },
  NOT_SUPPORTED: { status: 501, type: 'NotImplementedError', exitCode: 2 },
  /** As many requests wait as may. */
  QUEUE_FULL: { status: 429, type: 'RateLimitError', exitCode: 1 },
  OVERLOADED: { status: 503, type: 'ServiceUnavailableError', exitCode: 1 },
  INTERNAL: { status: 500, type: 'InternalServerError', exitCode: 1 },
  /** The GPU failed in a way that no later call in the same process gets over. */
  DEVICE_LOST: { status: 503, type: 'ServiceUnavailableError', exitCode: 1 },
  /** The native module is missing or does not load on this machine. */
  NATIVE_UNAVAILABLE: { status: 500, type: 'InternalServerError', exitCode: 3 },
  /** A model folder, checkpoint, workload or kept run that cannot be read as what it claims to be. */
  BAD_FILE: { status: 400, type: 'BadRequestError', exitCode: 2 },
  ADDRESS_IN_USE: { status: 500, type: 'InternalServerError', exitCode: 4 },
  /** A node that does not answer, or that died. */
  NODE_UNREACHABLE: { status: 502, type: 'BadGatewayError', exitCode: 5 },
  /** A peer agent refused, spoke nonsense, or closed the side channel. */
  PEER_FAILED: { status: 502, type: 'BadGatewayError', exitCode: 5 },
  /** A benchmark whose own checks (ledger, bytes, outputs) do not hold. */
  CHECK_FAILED: { status: 500, type: 'InternalServerError', exitCode: 6 },
  TIMED_OUT: { status: 504, type: 'GatewayTimeoutError', exitCode: 5 },
} as const satisfies Record<string, ErrorKind>;

export type ErrorCode = keyof typeof kinds;

export interface VllmPdErrorOptions {
  readonly cause?: unknown;
  /** The request field or flag at fault, e.g. `max_tokens`. */
  readonly param?: string;
  /** What the user may do about it, one sentence each. */
  readonly suggestions?: readonly string[];
  /** With a status of 429 or 503: when to come back, if that is known better than by the status alone. */
  readonly retryAfterSeconds?: number;
}

export class VllmPdError extends Error {
  override readonly name = 'VllmPdError';
  readonly code: ErrorCode;
  readonly param: string | undefined;
  readonly suggestions: readonly string[];
  readonly retryAfterSeconds: number | undefined;

  constructor(code: ErrorCode, message: string, options: VllmPdErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.param = options.param;
    this.suggestions = options.suggestions ?? [];
    this.retryAfterSeconds = options.retryAfterSeconds;
  }

  get status(): number {
    return kinds[this.code].status;
  }

  get type(): string {
    return kinds[this.code].type;
  }

  get exitCode(): number {
    return kinds[this.code].exitCode;
  }
}

/** The message of anything that was thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** True for system errors such as `{ code: 'EADDRINUSE' }`. */
export function hasCode(error: unknown, code: string): boolean {
  return error instanceof Error && (error as NodeJS.ErrnoException).code === code;
}
