/**
 * The idle stop of a rented machine: the machine stops itself some minutes after the last collected video, so that a
 * forgotten machine stops costing money. This module reads the countdown, and keeps a machine although nothing runs on
 * it. The web page and `lipsync cloud status` and `keep` use the same two addresses of the server.
 */
import { NodeOperationError, type IDataObject, type IExecuteFunctions } from 'n8n-workflow';

import { detailOf, probe, type ProbeAnswer } from './probe';

/** The server's answer to GET /v1/idle-stop. */
export interface IdleStop {
	enabled: boolean;
	after_minutes: number;
	/** Seconds until the stop; null while a job runs or a video is not collected. */
	in_s: number | null;
	kept_s: number;
	start_cost: { amount: number; currency: string } | null;
}

/** The fields of the countdown for the output of the node. */
export async function readCountdown(
	context: IExecuteFunctions,
	url: string,
	token: string,
): Promise<IDataObject> {
	if (token === '') return { stops_in_minutes: null, stops: 'unknown: Server Token is empty' };
	const answer = await probe(context, { url: `${url}/v1/idle-stop` }, token);
	const idle = idleStopIn(answer);
	if (idle === undefined) {
		const reason = detailOf(answer, 'the server has no countdown');
		return { stops_in_minutes: null, stops: `unknown: ${reason}` };
	}
	return describeCountdown(idle);
}

/** Let the machine run for at least `minutes` from now, idle or not. 0 ends an earlier request. */
export async function keepMachine(
	context: IExecuteFunctions,
	url: string,
	token: string,
	minutes: number,
	itemIndex: number,
): Promise<IDataObject> {
	const answer = await probe(
		context,
		{ url: `${url}/v1/idle-stop/keep`, method: 'POST', body: { minutes }, json: true },
		token,
	);
	const idle = idleStopIn(answer);
	if (idle !== undefined) return describeCountdown(idle);
	throw new NodeOperationError(
		context.getNode(),
		detailOf(answer, `The server of the machine at ${url} does not answer`),
		{
			description:
				answer?.status === 401
					? "Server Token is the token from Machine > Start: {{ $('Start Machine').first().json.token }}"
					: 'The machine was not kept. Machine > Get Status shows its state and its countdown',
			itemIndex,
		},
	);
}

export function describeCountdown(idle: IdleStop): IDataObject {
	const cost = idle.start_cost;
	return {
		stops_in_minutes: idle.in_s === null ? null : Math.round(idle.in_s / 6) / 10,
		stops: sentenceOf(idle),
		kept_minutes: Math.round(idle.kept_s / 6) / 10,
		next_start_costs: cost === null ? null : `${cost.amount.toFixed(3)} ${cost.currency}`,
	};
}

function sentenceOf({ enabled, in_s, kept_s }: IdleStop): string {
	if (!enabled) return 'never by itself: use Machine > Stop when you are done';
	if (in_s === null) return 'not counting down: a job runs, or a video is not collected';
	const unless =
		kept_s > 0
			? 'unless a job or an upload comes; somebody keeps it until then'
			: 'unless a job or an upload comes, or Machine > Keep Running keeps it';
	return `in ${spell(in_s)} ${unless}`;
}

/** "4 minutes", and "50 seconds" below two minutes. */
function spell(seconds: number): string {
	return seconds < 120 ? `${Math.floor(seconds)} seconds` : `${Math.floor(seconds / 60)} minutes`;
}

function idleStopIn(answer: ProbeAnswer | undefined): IdleStop | undefined {
	const idle = answer?.body as Partial<IdleStop> | undefined;
	return answer?.status === 200 && typeof idle?.enabled === 'boolean'
		? (idle as IdleStop)
		: undefined;
}
