// How node processes are made to have a disk that fails when told to: what their environment says of it.

/** What becomes of what is asked of the directory: writes fail with that error, or everything takes its time. */
export type DiskFailure = 'ENOSPC' | 'EACCES' | 'slow';

export const directoryVariable = 'VLLM_PD_CHAOS_DISK';
export const controlVariable = 'VLLM_PD_CHAOS_DISK_FAILURE';

const patch = new URL('./failing-disk.js', import.meta.url).href;

/** For nodes whose files below `directory` fail as the file `control` says, as long as there is one. */
export function failingDiskEnv(directory: string, control: string): Readonly<Record<string, string>> {
  return {
    [directoryVariable]: directory,
    [controlVariable]: control,
    NODE_OPTIONS: [process.env.NODE_OPTIONS, `--import=${patch}`].filter(Boolean).join(' '),
  };
}
