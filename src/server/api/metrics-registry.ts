// prom-client's metrics on a registry of their own, some of them read only when somebody asks.
import { Counter, Gauge, Histogram, Registry } from 'prom-client';

type Labels = Readonly<Record<string, string>>;
type Sample = readonly [Labels, number];

export class MetricsRegistry {
  readonly #registry = new Registry();

  constructor(defaultLabels: Labels) {
    this.#registry.setDefaultLabels(defaultLabels);
  }

  get contentType(): string {
    return this.#registry.contentType;
  }

  /** Prometheus' text format. */
  text(): Promise<string> {
    return this.#registry.metrics();
  }

  counter(name: string, help: string, ...labelNames: string[]): Counter {
    return new Counter({ name, help, labelNames, registers: [this.#registry] });
  }

  histogram(name: string, help: string, buckets: readonly number[]): Histogram {
    return new Histogram({ name, help, buckets: [...buckets], registers: [this.#registry] });
  }

  /** A gauge that is looked up when it is asked for. */
  gauge(name: string, help: string, read: () => number): void {
    const collect = function (this: Gauge) {
      this.set(read());
    };
    new Gauge({ name, help, registers: [this.#registry], collect });
  }

  labelledGauge(
    name: string,
    help: string,
    labelNames: readonly string[],
    read: () => readonly Sample[],
  ): void {
    const collect = function (this: Gauge) {
      for (const [labels, value] of read()) this.set(labels, value);
    };
    new Gauge({ name, help, labelNames: [...labelNames], registers: [this.#registry], collect });
  }

  /** A counter that somebody else keeps. */
  readCounter(name: string, help: string, read: () => number): void {
    this.labelledReadCounter(name, help, [], () => [[{}, read()]]);
  }

  labelledReadCounter(
    name: string,
    help: string,
    labelNames: readonly string[],
    read: () => readonly Sample[],
  ): void {
    const collect = function (this: Counter) {
      this.reset();
      for (const [labels, value] of read()) this.inc(labels, value);
    };
    new Counter({ name, help, labelNames: [...labelNames], registers: [this.#registry], collect });
  }
}
