// One measured row. Field names are a file format: rows.jsonl, rows.csv and --json.

export interface KernelRow {
  readonly family: string;
  readonly name: string;
  readonly threads: number;
  readonly unit: string;
  /** In `unit`, at the median round. */
  readonly value: number;
  /** What the value is held against. */
  readonly limit: string;
  /** In `unit`, measured in the same process, in turns with the row. */
  readonly limit_value: number;
  /** value / limit_value */
  readonly ratio: number;
  /** What is asked of the row, e.g. `≥ 0.90`, of the limit if it does not say of what; null = nothing. */
  readonly asked: string | null;
  /** What was measured, in the same words. */
  readonly reached: string | null;
  readonly is_reached: boolean | null;
  /** Quartiles of one round, in ms. */
  readonly ms_p25: number;
  readonly ms_p50: number;
  readonly ms_p75: number;
  readonly num_rounds: number;
  readonly limit_ms_p25: number;
  readonly limit_ms_p50: number;
  readonly limit_ms_p75: number;
  readonly num_limit_rounds: number;
}
