// A defence of the system against one fault or attack, as what is left when it is taken away, and the tests that must notice.

export interface Defence {
  /** The fault or attack, as a sentence about what must not get through. */
  readonly against: string;
  /** Where the defence is, from the repository's root. */
  readonly file: string;
  /** The defence: stands in the file exactly once. */
  readonly text: string;
  /** What stands there when it is gone. */
  readonly instead: string;
  /** Test files of which at least one must fail then. */
  readonly tests: readonly string[];
}
