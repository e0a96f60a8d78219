// The compiled kernels as bytes of the addon. VLLM_PD_FATBIN names nvcc's output.
  .section .rodata
  .global vllm_pd_fatbin
  .hidden vllm_pd_fatbin
  .global vllm_pd_fatbin_end
  .hidden vllm_pd_fatbin_end
  .balign 64
vllm_pd_fatbin:
  .incbin VLLM_PD_FATBIN
vllm_pd_fatbin_end:
  .byte 0
  .section .note.GNU-stack,"",%progbits
