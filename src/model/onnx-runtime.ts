// ONNX Runtime itself: loaded when it is first wanted, and told to report to nobody.

export type OnnxRuntime = typeof import('onnxruntime-node');

/**
 * Official builds send to Microsoft what they run, and keep an id of the machine in the user's cache for that, unless they are
 * told otherwise before they are loaded. Who has set the variable is heeded. To be called on the main thread before a
 * worker is started that loads it: a worker's environment is a copy, which native code does not see.
 */
export function disableOnnxTelemetry(): void {
  process.env.ORT_DISABLE_TELEMETRY ??= '1';
}

/** Rejects as `import` does where the package is not installed or has nothing for this machine. */
export async function importOnnxRuntime(): Promise<OnnxRuntime> {
  disableOnnxTelemetry();
  // CommonJS: everything hangs on the default export.
  const loaded: { readonly default: OnnxRuntime } = await import('onnxruntime-node');
  return loaded.default;
}
