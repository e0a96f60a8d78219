// A chat's messages and its other template variables, as clients send them → as chat templates expect them.
import { VllmPdError } from '../../errors.js';
import type { ChatMessage, RenderChatOptions } from '../../model/chat-template.js';

interface ToolCall {
  readonly function: {
    readonly name: string;
    readonly arguments?: string | Readonly<Record<string, unknown>> | null | undefined;
  };
}

export interface ChatBody {
  readonly messages: readonly ChatMessage[];
  /** The messages as somebody has encoded them already (P, for D); they are not rendered again. */
  readonly prompt_token_ids?: readonly number[] | null;
  readonly add_generation_prompt?: boolean | null;
  readonly continue_final_message?: boolean | null;
  readonly chat_template_kwargs?: Readonly<Record<string, unknown>> | null;
  readonly documents?: readonly unknown[] | null;
  readonly reasoning_effort?: string | null;
  readonly tools?: readonly unknown[] | null;
}

/** Throws INVALID_ARGUMENT for tool calls whose arguments are no JSON. */
export function templateMessages(messages: readonly ChatMessage[]): ChatMessage[] {
  return messages.map(withReasoning).map((message, index) => {
    const toolCalls = message.tool_calls as readonly ToolCall[] | null | undefined;
    if (!toolCalls) return message;
    // Beside tool calls the content is null; templates join texts.
    const content = message.content ?? '';
    return { ...message, content, tool_calls: toolCalls.map((call, i) => withObject(call, index, i)) };
  });
}

/** What a model thought goes by two names: clients send either, templates read either. */
function withReasoning(message: ChatMessage): ChatMessage {
  const reasoning = message.reasoning ?? message.reasoning_content;
  return reasoning == null ? message : { ...message, reasoning, reasoning_content: reasoning };
}

/** Arguments travel as JSON text; templates write them as JSON themselves. */
function withObject(call: ToolCall, messageIndex: number, callIndex: number): ToolCall {
  const text = call.function.arguments;
  if (typeof text === 'object' && text !== null) return call;
  try {
    const parsed = JSON.parse(text || '{}') as Readonly<Record<string, unknown>>;
    return { ...call, function: { ...call.function, arguments: parsed } };
  } catch (cause) {
    const param = `messages.${messageIndex}.tool_calls.${callIndex}.function.arguments`;
    const message = `Expected JSON text for \`${param}\` but received ${JSON.stringify(text)}.`;
    throw new VllmPdError('INVALID_ARGUMENT', message, { cause, param });
  }
}

export function renderOptions(body: ChatBody): RenderChatOptions {
  const continueFinalMessage = body.continue_final_message ?? false;
  const { documents, reasoning_effort, tools } = body;
  return {
    continueFinalMessage,
    addGenerationPrompt: body.add_generation_prompt ?? !continueFinalMessage,
    tools: tools && tools.length > 0 ? tools : null,
    chatTemplateKwargs: {
      // As vLLM: templates that think only when asked to are asked.
      ...(reasoning_effort && { enable_thinking: reasoning_effort !== 'none' }),
      ...body.chat_template_kwargs,
      ...(reasoning_effort && { reasoning_effort }),
      ...(documents && { documents }),
    },
  };
}
