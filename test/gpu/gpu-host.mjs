// The machine of a run on a GPU: what `vllm-pd info` finds, the versions of what it is compared with, and the commit.
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';

/** Where a packed copy, which has no history, says what it was packed from (pack.mjs). */
export const commitFile = 'COMMIT';

function outputOf(command, args, options) {
  const { status, stdout } = spawnSync(command, args, { encoding: 'utf8', ...options });
  return status === 0 ? stdout.trim() : null;
}

export function commitOf(root) {
  const file = path.join(root, commitFile);
  if (existsSync(file)) return readFileSync(file, 'utf8').trim();
  const commit = outputOf('git', ['rev-parse', 'HEAD'], { cwd: root });
  const dirty = outputOf('git', ['status', '--porcelain', '--', 'src', 'native', 'test/gpu'], { cwd: root });
  return commit && `${commit}${dirty ? ' with changes' : ''}`;
}

/** `why_not` is a sentence where no GPU can be used. */
export function gpuHost(root, env) {
  const bin = path.join(root, 'dist', 'src', 'bin.js');
  const said = outputOf(process.execPath, [bin, 'info', '--json'], { env });
  if (!said)
    return { why_not: 'vllm-pd info does not start: build the checkout first (test/gpu/README.md).' };
  const { version, machine, native, cuda, backends } = JSON.parse(said);
  const versions =
    'import torch, transformers; print(torch.__version__, torch.version.cuda, transformers.__version__)';
  return {
    why_not: backends.cuda.why_not,
    commit: commitOf(root),
    version,
    gpus: cuda.devices,
    cuda_driver: cuda.driver_version,
    nvidia_driver: outputOf('nvidia-smi', ['--query-gpu=driver_version', '--format=csv,noheader']),
    nvcc: native.nvcc,
    cublaslt: cuda.why_no_cublaslt ?? null,
    torch_cuda_transformers: outputOf('python3', ['-c', versions]),
    node: machine.node,
    os: machine.os,
    cpu: machine.cpu,
    cores: machine.cores,
  };
}
