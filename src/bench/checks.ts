// What must hold at the end of every run, from the turns alone; a run that breaks one of them fails.
import { VllmPdError } from '../errors.js';
import { ledgerBins, recomputedBins } from '../wire.js';
import { expectedLedgerOf, ledgerOf, type TurnRecord } from './turn-record.js';

export interface Check {
  readonly name: string;
  readonly ok: boolean;
  /** What was found; of a broken check the first turns at fault and their values. */
  readonly detail: string;
}

/** Ledger bins sum to the prompt, computed and recomputed bins to their counts. */
export function checkLedgerSums(turns: readonly TurnRecord[]): Check {
  const known = withLedger(turns);
  const faults = known.flatMap((turn) => {
    const ledger = ledgerOf(turn);
    const all = ledgerBins.reduce((sum, bin) => sum + ledger[bin], 0);
    const recomputed = recomputedBins.reduce((sum, bin) => sum + ledger[bin], 0);
    const ok =
      all === turn.num_prompt_tokens &&
      recomputed === turn.num_recomputed_tokens &&
      recomputed + ledger.new === turn.num_computed_tokens;
    if (ok) return [];
    return [
      `${nameOf(turn)}: bins sum to ${all} of ${turn.num_prompt_tokens} prompt tokens, ` +
        `${recomputed + ledger.new} of ${turn.num_computed_tokens} computed, ` +
        `${recomputed} of ${turn.num_recomputed_tokens} computed again`,
    ];
  });
  return result('ledger bins sum to the prompt', faults, `${known.length} turns`);
}

/** The ledger is what lengths alone say, wherever they determine it. */
export function checkClosedForm(turns: readonly TurnRecord[]): Check {
  const checked = turns.filter((turn) => expectedLedgerOf(turn) !== null);
  const faults = checked.flatMap((turn) => {
    const expected = expectedLedgerOf(turn)!;
    const ledger = ledgerOf(turn);
    const wrong = ledgerBins.filter((bin) => ledger[bin] !== expected[bin]);
    if (wrong.length === 0) return [];
    return [
      `${nameOf(turn)}: ${wrong.map((bin) => `${bin} ${ledger[bin]} instead of ${expected[bin]}`).join(', ')}`,
    ];
  });
  const scope = checked.length === 0 ? 'no turn is determined by lengths alone' : `${checked.length} turns`;
  return result('ledger equals the closed form', faults, scope);
}

/** uni never moves KV from the decode node to the prefill node. */
export function checkUniDirection(turns: readonly TurnRecord[]): Check {
  const uni = withLedger(turns).filter(({ mode }) => mode === 'uni');
  const faults = uni
    .filter((turn) => turn.kv_bytes_d_to_p !== 0)
    .map((turn) => `${nameOf(turn)}: ${turn.kv_bytes_d_to_p} bytes from D to P`);
  return result('uni moves nothing from D to P', faults, `${uni.length} turns`);
}

/** What the shared store has is not read from a peer. */
export function checkNoTwoHops(turns: readonly TurnRecord[]): Check {
  const all = withLedger(turns);
  const faults = all
    .filter((turn) => turn.two_hop_bytes > 0)
    .map((turn) => `${nameOf(turn)}: ${turn.two_hop_bytes} bytes`);
  return result('no block takes two hops where one will do', faults, `${all.length} turns`);
}

/** A turn's text is the same whichever way its KV came. Sampling without a seed may differ and is not compared. */
export function checkIdenticalOutputs(turns: readonly TurnRecord[]): Check {
  const pairs = pairTurns(turns);
  const faults = pairs
    .filter(([uni, bi]) => uni.output_sha256 !== bi.output_sha256)
    .map(
      ([uni, bi]) => `${turnOf(uni)}: ${short(uni.output_sha256)} in uni, ${short(bi.output_sha256)} in bi`,
    );
  return result('outputs are identical in both modes', faults, `${pairs.length} turns`);
}

export function checkNoFailedTurns(turns: readonly TurnRecord[]): Check {
  const faults = turns.flatMap((turn) => (turn.error === null ? [] : [`${nameOf(turn)}: ${turn.error}`]));
  return result('every turn was answered', faults, `${turns.length} turns`);
}

/** Turns that were answered in both modes, as [uni, bi]; without warm-up. */
export function pairTurns(turns: readonly TurnRecord[]): readonly (readonly [TurnRecord, TurnRecord])[] {
  const measured = answered(turns).filter(({ warmup }) => !warmup);
  const bi = new Map(measured.filter(({ mode }) => mode === 'bi').map((turn) => [turnOf(turn), turn]));
  return measured.flatMap((turn) => {
    const partner = turn.mode === 'uni' ? bi.get(turnOf(turn)) : undefined;
    return partner ? [[turn, partner] as const] : [];
  });
}

/** CHECK_FAILED naming every broken check; nothing when all hold. */
export function failIfBroken(checks: readonly Check[], keptAt: string | null): void {
  const broken = checks.filter(({ ok }) => !ok);
  if (broken.length === 0) return;
  const sentences = broken.map(({ name, detail }) => `Expected that ${name}, but: ${detail}.`);
  throw new VllmPdError('CHECK_FAILED', sentences.join('\n'), {
    suggestions: keptAt === null ? [] : [`The run was kept in ${keptAt}.`],
  });
}

const maxShown = 5;

/** `faults` are sentences; none = the check holds. */
export function result(name: string, faults: readonly string[], scope: string): Check {
  if (faults.length === 0) return { name, ok: true, detail: scope };
  const more = faults.length > maxShown ? `; and ${faults.length - maxShown} more` : '';
  return { name, ok: false, detail: faults.slice(0, maxShown).join('; ') + more };
}

function answered(turns: readonly TurnRecord[]): readonly TurnRecord[] {
  return turns.filter(({ error }) => error === null);
}

/** Those of which the nodes said how they were prefilled. */
function withLedger(turns: readonly TurnRecord[]): readonly TurnRecord[] {
  return answered(turns).filter((turn) => !turn.prefill_unknown);
}

function turnOf(turn: TurnRecord): string {
  return `${turn.conversation_id} turn ${turn.turn}`;
}

function nameOf(turn: TurnRecord): string {
  return `${turnOf(turn)} (${turn.mode})`;
}

function short(sha256: string | null): string {
  return sha256?.slice(0, 12) ?? 'none';
}
