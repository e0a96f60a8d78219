// What a chaos run keeps: run.json.
import type { HostInfo } from '../bench/host.js';
import type { StoreKind } from './chaos-store.js';
import type { FaultKind } from './fault.js';
import type { SoakReport } from './soak.js';

export interface ChaosRun {
  readonly id: string;
  readonly bench: 'chaos';
  readonly command: string;
  readonly version: string;
  readonly commit: string | null;
  readonly dirty: boolean;
  readonly host: HostInfo;
  readonly started_at: string;
  readonly seed: number;
  readonly fault_every: number;
  readonly num_clients: number;
  readonly fault_kinds: readonly FaultKind[];
  readonly store: StoreKind;
  readonly soaks: readonly SoakReport[];
}
