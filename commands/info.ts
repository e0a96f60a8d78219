// vllm-pd info: what this machine has, and what of vllm-pd works on it.
import { formatBytes } from '../src/bench/format.js';
import { BaseCommand } from '../src/cli/base-command.js';
import type { Availability, MachineReport } from '../src/micro-bench/machine-report.js';

export default class Info extends BaseCommand {
  static override readonly summary =
    'Show this machine and its GPUs, which backends and KV agents work here, and why others do not.';

  static override readonly description =
    'Looks only at this machine and at how the native module was compiled; nothing is started or measured, and no ' +
    'model is loaded. Ends with 0 also where something does not work.';

  static override readonly examples = [
    '<%= config.bin %> <%= command.id %>',
    '<%= config.bin %> <%= command.id %> --json',
    'VLLM_PD_ISA=avx2 <%= config.bin %> <%= command.id %>',
  ];

  async run(): Promise<MachineReport> {
    await this.parse(Info);
    const { machineReport } = await import('../src/micro-bench/machine-report.js');
    const report = await machineReport();
    if (!this.jsonEnabled()) this.log(await table(report));
    return report;
  }
}

const labelColumns = 18;
const numBorders = 3;
const usualColumns = 80;
const maxColumns = 120;

function inWords({ works, why_not, detail }: Availability): string {
  if (works) return detail === null ? 'works' : `works: ${detail}`;
  return `no: ${why_not}`;
}

async function table({
  version,
  machine,
  native,
  cuda,
  backends,
  kv_agents,
}: MachineReport): Promise<string> {
  const { default: Table } = await import('cli-table3');
  const width = Math.min(maxColumns, process.stdout.columns ?? usualColumns);
  const colWidths = [labelColumns, Math.max(labelColumns, width - labelColumns - numBorders)];
  const out = new Table({ style: { head: [], border: [] }, colWidths, wordWrap: true });
  const kernels =
    native.nvcc === null ? 'left out' : `nvcc ${native.nvcc}, ${formatBytes(native.fatbin_bytes)}`;
  out.push(
    ['vllm-pd', `${version}, Node ${machine.node}, ${machine.os}`],
    ['CPU', `${machine.cpu}, ${machine.cores} cores`],
    ['CPU features', machine.cpu_features.join(' ') || 'unknown'],
    [
      'memory',
      `${formatBytes(machine.memory_bytes)}, ${formatBytes(machine.memory_available_bytes)} available, ` +
        `huge pages: ${machine.transparent_huge_pages ?? 'unknown'}`,
    ],
    [
      'native module',
      native.loads ? `${native.isa} kernels, compiled by ${native.compiler}` : `no: ${native.why_not}`,
    ],
    ['CUDA kernels', kernels],
    ['CUDA driver', cuda.driver_version ?? 'none'],
    ...cuda.devices.map((device, i) => [
      `GPU ${i}`,
      `${device.name}, compute capability ${device.capability}, ${formatBytes(device.memory_bytes)}`,
    ]),
    ...Object.entries(backends).map(([name, state]) => [`--backend ${name}`, inWords(state)]),
    ...Object.entries(kv_agents).map(([name, state]) => [`--kv-agent ${name}`, inWords(state)]),
  );
  return out.toString();
}
