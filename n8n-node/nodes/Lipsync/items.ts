/** One output item per input item: pairing, Continue On Fail and the error output. */
import { NodeOperationError, type IExecuteFunctions, type INodeExecutionData } from 'n8n-workflow';

import { isStopped } from './api/client';
import { asNodeError } from './api/errors';

/** Run `work` for every input item. `work` may return several output items for one input item. */
export async function eachItem(
	context: IExecuteFunctions,
	work: (itemIndex: number) => Promise<INodeExecutionData | INodeExecutionData[]>,
): Promise<INodeExecutionData[]> {
	const output: INodeExecutionData[] = [];
	for (let i = 0; i < context.getInputData().length; i++) {
		const given = await orFailed(context, i, async () => await work(i));
		output.push(...(Array.isArray(given) ? given : [given]));
	}
	return output;
}

/** The result of `work` for item `itemIndex`. If `work` fails and Continue On Fail is on: an item with the error. */
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
 * The output item for a failed input item.
 *
 * n8n 1.x sends an item to the error output only if its JSON has exactly `error`, or `error` and `message`; n8n 2.x
 * accepts both forms too. The item has no binary, so that the next node cannot use the picture in place of the video.
 * Version 1 of the node still returns the inputs on the error output, as it always did.
 */
function failedItem(
	context: IExecuteFunctions,
	error: unknown,
	itemIndex: number,
): INodeExecutionData {
	const known = asNodeError(context, error, itemIndex);
	const item: INodeExecutionData = {
		json: { error: known.message, ...(known.description ? { message: known.description } : {}) },
		pairedItem: { item: itemIndex },
	};
	const { onError, typeVersion } = context.getNode();
	if (onError === 'continueErrorOutput' && typeVersion < 2) {
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

/** The text of a parameter, without blanks around it; "" for a parameter that is not set. */
export function text(value: unknown): string {
	return value === undefined || value === null ? '' : String(value).trim();
}
