/** One output item per input item: pairing, Continue On Fail and the error output. */
import { NodeOperationError, type IExecuteFunctions, type INodeExecutionData } from 'n8n-workflow';

import { isStopped } from './api/client';
import { asNodeError } from './api/errors';

/** Run `work` for every input item. */
export async function eachItem(
	context: IExecuteFunctions,
	work: (itemIndex: number) => Promise<INodeExecutionData>,
): Promise<INodeExecutionData[]> {
	const output: INodeExecutionData[] = [];
	for (let i = 0; i < context.getInputData().length; i++) {
		output.push(await orFailed(context, i, async () => await work(i)));
	}
	return output;
}

/** What `work` gives for item `itemIndex`; with Continue On Fail an item that carries the error instead. */
export async function orFailed<T>(
	context: IExecuteFunctions,
	itemIndex: number,
	work: () => Promise<T>,
): Promise<T | INodeExecutionData> {
	try {
		return await work();
	} catch (error) {
		if (!context.continueOnFail() || isStopped(context)) {
			throw asNodeError(context, error, itemIndex);
		}
		return failedItem(context, error, itemIndex);
	}
}

/**
 * The item for a job without a video: n8n takes one with only `error` and `details` for a failed one, and would drop
 * `details` if the error object were there as well. In the regular output it carries no binary, so that the picture can
 * never be taken for the video by the next node; the error output gets the inputs back.
 */
function failedItem(
	context: IExecuteFunctions,
	error: unknown,
	itemIndex: number,
): INodeExecutionData {
	const known = asNodeError(context, error, itemIndex);
	const item: INodeExecutionData = {
		json: { error: known.message, ...(known.description ? { details: known.description } : {}) },
		pairedItem: { item: itemIndex },
	};
	if (context.getNode().onError === 'continueErrorOutput') {
		item.binary = context.getInputData()[itemIndex].binary;
	}
	return item;
}

export function numberBetween(
	context: IExecuteFunctions,
	name: string,
	value: unknown,
	[least, most]: [number, number],
	itemIndex: number,
): number {
	const number = Number(value);
	if (!(number >= least && number <= most)) {
		throw new NodeOperationError(
			context.getNode(),
			`${name} is ${JSON.stringify(value)}; it has to be a number from ${least} to ${most}`,
			{ itemIndex },
		);
	}
	return number;
}
