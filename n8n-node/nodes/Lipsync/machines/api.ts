/**
 * Calls to one provider's API. The key comes from the credential. A call is repeated only if a second one does no harm.
 * An error becomes a sentence.
 */
import {
	NodeApiError,
	type IDataObject,
	type IExecuteFunctions,
	type IHttpRequestMethods,
	type IN8nHttpFullResponse,
	type JsonObject,
} from 'n8n-workflow';

import { isStopped, parsed, pause } from '../api/client';
import { connectionCode, messageOf } from '../api/errors';

const PAUSES_MS = [1_000, 2_000, 4_000, 8_000, 15_000];
const LONGEST_RETRY_AFTER_MS = 60_000;
const TIMEOUT_MS = 60_000;

export interface ProviderCall {
	method: IHttpRequestMethods;
	path: string;
	body?: IDataObject;
	query?: IDataObject;
	/** Whether the call may be repeated. Unless set, every method but POST may. */
	isHarmless?: boolean;
	/** HTTP statuses other than 2xx that the caller reads as an answer. */
	accept?: number[];
}

export interface ProviderAnswer {
	status: number;
	body: IDataObject;
}

/** The API of the provider in the credential. */
export class ProviderApi {
	constructor(
		private readonly context: IExecuteFunctions,
		private readonly title: string,
		private readonly itemIndex: number,
		/** Whether calls are sent even after the execution was stopped. A machine has to be given back in any case. */
		private readonly isDespiteStop = false,
	) {}

	despiteStop(): ProviderApi {
		return new ProviderApi(this.context, this.title, this.itemIndex, true);
	}

	/**
	 * Send `call`; returns the JSON object of the answer. A call is repeated after 429. After 5xx or a broken connection
	 * only a harmless call is repeated: to repeat the order of a machine could rent two machines.
	 */
	async call(call: ProviderCall): Promise<ProviderAnswer> {
		const isHarmless = call.isHarmless ?? call.method !== 'POST';
		for (let attempt = 0; ; attempt++) {
			let status = 0;
			let reason: string;
			let pauseMs = PAUSES_MS[attempt] as number | undefined;
			try {
				const response = await this.once(call);
				status = response.statusCode;
				const body = parsed(response.body);
				if (status < 300 || call.accept?.includes(status)) return this.answer(status, body);
				reason = `${this.title} answered ${status} to ${call.method} ${call.path}: ${wordsOf(body)}`;
				const retryAfter = Number(response.headers['retry-after'] ?? Number.NaN);
				if (pauseMs !== undefined && Number.isFinite(retryAfter)) {
					pauseMs = Math.min(retryAfter * 1000, LONGEST_RETRY_AFTER_MS);
				}
			} catch (error) {
				if (error instanceof NodeApiError && error.httpCode === 'refused') {
					throw new NodeApiError(this.context.getNode(), error as unknown as JsonObject, {
						message: error.message,
						httpCode: 'refused',
						itemIndex: this.itemIndex,
					});
				}
				reason = `${this.title} could not be reached: ${connectionCode(error) || messageOf(error)}`;
			}
			const mayRepeat = status === 429 || (isHarmless && (status === 0 || status >= 500));
			const isOver = !this.isDespiteStop && isStopped(this.context);
			if (!mayRepeat || pauseMs === undefined || isOver) throw this.refused(status, reason);
			this.context.logger.info(`${reason}; trying again`);
			if (!this.isDespiteStop) await pause(this.context, pauseMs);
		}
	}

	private async once(call: ProviderCall): Promise<IN8nHttpFullResponse> {
		const signals = this.isDespiteStop ? [] : [this.context.getExecutionCancelSignal()];
		const signal = AbortSignal.any([
			AbortSignal.timeout(TIMEOUT_MS),
			...signals.filter((each) => each !== undefined),
		]);
		const own = Object.create(this.context, {
			getCredentials: {
				value: async (type: string) => await this.context.getCredentials(type, this.itemIndex),
			},
			getExecutionCancelSignal: { value: () => signal },
		}) as IExecuteFunctions;
		return (await this.context.helpers.httpRequestWithAuthentication.call(
			own,
			'lipsyncMachineApi',
			{
				method: call.method,
				url: call.path,
				qs: call.query,
				body: call.body,
				json: call.body !== undefined,
				headers: { Accept: 'application/json' },
				returnFullResponse: true,
				ignoreHttpStatusErrors: true,
				disableFollowRedirect: true,
				timeout: TIMEOUT_MS,
				abortSignal: signal,
			},
		)) as IN8nHttpFullResponse;
	}

	private answer(status: number, body: unknown): ProviderAnswer {
		if (body === '' || body === undefined || body === null) return { status, body: {} };
		if (!(body instanceof Object)) {
			throw this.refused(
				status,
				`${this.title} answered with something that is not JSON: ${String(body).slice(0, 200)}`,
			);
		}
		if (Array.isArray(body)) return { status, body: { items: body as IDataObject[] } };
		const content = body as IDataObject;
		if (content.success === false && status < 300) {
			throw this.refused(status, `${this.title} refused: ${wordsOf(body)}`);
		}
		return { status, body: content };
	}

	private refused(status: number, reason: string): NodeApiError {
		const isKey = status === 401 || status === 403;
		return new NodeApiError(
			this.context.getNode(),
			{},
			{
				message: reason,
				description: isKey
					? 'Open the Lipsync Rented GPU API credential: is the key right, and may it do this?'
					: `Check on the page of ${this.title} whether the machine exists`,
				httpCode: status < 300 && status > 0 ? 'refused' : String(status || 'unreachable'),
				itemIndex: this.itemIndex,
			},
		);
	}
}

/** The text of an error answer: fields of RFC 9457, Vast's `msg`, `error` or `message`, else the start of the body. */
function wordsOf(body: unknown): string {
	if (body instanceof Object) {
		const content = body as IDataObject;
		const said = ['title', 'detail', 'msg', 'message', 'error']
			.map((name) => content[name])
			.filter((each) => typeof each === 'string' && each !== '');
		const errors = Array.isArray(content.errors)
			? content.errors.map((each) => JSON.stringify(each))
			: [];
		if (said.length + errors.length > 0) return [...said, ...errors].join('. ').slice(0, 500);
	}
	return (
		String(typeof body === 'string' ? body : (JSON.stringify(body) ?? ''))
			.trim()
			.slice(0, 300) || 'nothing'
	);
}
