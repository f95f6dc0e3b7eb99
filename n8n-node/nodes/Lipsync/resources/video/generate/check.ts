/**
 * The fields of Check: whether the server checks the finished video, and the score below which the video leaves by the
 * output "Below the Bar". With no bar the node has one output, as it always had.
 */
import type {
	IDataObject,
	IExecuteFunctions,
	INodeExecutionData,
	INodeProperties,
	INodeTypeDescription,
} from 'n8n-workflow';

import { numberBetween, text } from '../../../items';
import { VERSION_2 } from '../../../operation';

const score = { minValue: 0, maxValue: 1, numberPrecision: 2 };

export const checkFields: INodeProperties = {
	displayName: 'Check',
	name: 'check',
	type: 'collection',
	placeholder: 'Add Field',
	default: {},
	displayOptions: { show: { ...VERSION_2 } },
	options: [
		{
			displayName: 'Bar',
			name: 'bar',
			type: 'number',
			typeOptions: score,
			default: 0.6,
			description:
				'A video with a score below this leaves by a second output, Below the Bar. Connect nothing there, and the workflow stops instead of publishing it.',
		},
		{
			displayName: 'Check the Finished Video',
			name: 'when',
			type: 'options',
			options: [
				{ name: 'Always', value: 'true' },
				{ name: 'Never', value: 'false' },
				{ name: 'Where It Costs Little', value: '', description: 'Under 5 % of the render' },
			],
			default: 'true',
			description:
				'Whether the mouth follows the speech, and whether picture and sound have faults',
		},
		{
			displayName: 'Put Contact Sheet in Field',
			name: 'sheetField',
			type: 'string',
			default: '',
			placeholder: 'e.g. sheet',
			hint: 'The name of the output binary field to put the sheet in: a JPEG with pictures of the video and the findings',
		},
		{
			displayName: 'Render Again at Most',
			name: 'retries',
			type: 'number',
			typeOptions: { minValue: 0, maxValue: 3 },
			default: 1,
			description:
				'How often the server renders again. Each attempt costs as much as the first one.',
		},
		{
			displayName: 'Render Again Below',
			name: 'retriesBelow',
			type: 'number',
			typeOptions: score,
			default: 0.6,
			description:
				'While the score is below this, the server renders again with another seed and keeps the best video',
		},
	],
};

/**
 * The outputs of the node, as the expression that n8n evaluates when the panel changes. A workflow without a bar keeps
 * its single output.
 */
export const outputs: INodeTypeDescription['outputs'] = `={{ $parameter["operation"] === "generate" && ($parameter["check"] ?? {})["bar"] ? [{ type: "main", displayName: "Video" }, { type: "main", displayName: "Below the Bar" }] : ["main"] }}`;

/** The form fields of the server for `check`, the value of the collection. A bar or a sheet needs the check. */
export function checkTexts(check: IDataObject): Record<string, string> {
	const isNeeded = Boolean(check.bar) || text(check.sheetField) !== '';
	return {
		check: text(check.when) || (isNeeded ? 'true' : ''),
		retries_below: text(check.retriesBelow),
		retries: text(check.retries),
	};
}

/** The items by output: a video with a score below its bar goes to the second one. One list where there is no bar. */
export function byOutput(
	context: IExecuteFunctions,
	items: INodeExecutionData[],
): INodeExecutionData[][] {
	const barOf = (i: number) => {
		const { bar } = context.getNodeParameter('check', i, {}) as IDataObject;
		return bar === undefined ? 0 : numberBetween(context, 'Bar', bar, [0, 1], i);
	};
	if (barOf(0) === 0) return [items];
	const outputs: INodeExecutionData[][] = [[], []];
	for (const item of items) {
		const { quality_score: score } = item.json;
		const i =
			typeof item.pairedItem === 'object' && 'item' in item.pairedItem ? item.pairedItem.item : 0;
		const isBelow = typeof score === 'number' && score < barOf(i);
		outputs[isBelow ? 1 : 0].push(item);
	}
	return outputs;
}
