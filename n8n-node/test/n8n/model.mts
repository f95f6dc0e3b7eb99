/**
 * A stand-in for a language model with OpenAI's interface, on loopback. The model calls the only tool of the request with
 * the arguments of the test, and then answers with the tool's text. A request for speech is answered with
 * the recording of the test.
 */
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';

interface Message {
	role: string;
	content?: unknown;
}

interface Ask {
	input?: string;
	stream?: boolean;
	messages: Message[];
	tools?: Array<{ function: { name: string; parameters: { properties?: object } } }>;
}

export class ModelStandIn {
	/** The arguments of the tool's schema, as the model saw them. */
	offered: string[] = [];
	/** The texts that the tool returned to the model. */
	readonly answers: string[] = [];
	/** The texts of the requests for speech. */
	readonly spoken: string[] = [];

	private constructor(
		readonly url: string,
		private readonly server: Server,
	) {}

	static async start(toolArguments: object, recording?: Buffer): Promise<ModelStandIn> {
		const server = createServer();
		await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
		const { port } = server.address() as AddressInfo;
		const model = new ModelStandIn(`http://127.0.0.1:${port}/v1`, server);
		server.on('request', (request, response) => {
			const chunks: Buffer[] = [];
			request.on('data', (chunk: Buffer) => chunks.push(chunk));
			request.on('end', () => {
				const ask = JSON.parse(Buffer.concat(chunks).toString() || '{}') as Ask;
				if (request.url?.endsWith('/audio/speech')) {
					model.spoken.push(String(ask.input));
					response.writeHead(200, { 'Content-Type': 'audio/wav' }).end(recording);
					return;
				}
				const message = model.next(ask, toolArguments);
				const head = { id: 'answer', model: 'stand-in', created: 1 };
				const reason = 'tool_calls' in message ? 'tool_calls' : 'stop';
				if (ask.stream) {
					const chunk = (delta: object, finish: string | null) =>
						`data: ${JSON.stringify({ ...head, object: 'chat.completion.chunk', choices: [{ index: 0, delta, finish_reason: finish }] })}\n\n`;
					response.writeHead(200, { 'Content-Type': 'text/event-stream' });
					response.end(`${chunk(message, null)}${chunk({}, reason)}data: [DONE]\n\n`);
					return;
				}
				const body = {
					...head,
					object: 'chat.completion',
					choices: [{ index: 0, message, finish_reason: reason }],
					usage: { prompt_tokens: 1, completion_tokens: 1, total_tokens: 2 },
				};
				response.writeHead(200, { 'Content-Type': 'application/json' }).end(JSON.stringify(body));
			});
		});
		return model;
	}

	stop(): void {
		this.server.closeAllConnections();
		this.server.close();
	}

	private next({ messages, tools }: Ask, toolArguments: object): object {
		const given = messages
			.filter(({ role }) => role === 'tool')
			.map(({ content }) => text(content));
		if (given.length > 0) {
			this.answers.push(...given);
			return { role: 'assistant', content: `Here is your video: ${given.join('\n')}` };
		}
		const tool = tools?.[0]?.function;
		this.offered = Object.keys(tool?.parameters.properties ?? {});
		const call = { name: tool?.name, arguments: JSON.stringify(toolArguments) };
		return {
			role: 'assistant',
			content: null,
			tool_calls: [{ index: 0, id: 'call-1', type: 'function', function: call }],
		};
	}
}

/** The text of a message: a string, or a list of parts. */
function text(content: unknown): string {
	if (typeof content === 'string') return content;
	const parts = content as Array<{ text?: string }>;
	return parts.map((part) => part.text ?? '').join('');
}
