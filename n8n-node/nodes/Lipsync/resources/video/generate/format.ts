/** The fields of Format: the shape and the sound of the video. Most people never open the collection. */
import type { IDataObject, INodeProperties } from 'n8n-workflow';

import { text } from '../../../items';
import { VERSION_2 } from '../../../operation';

export const formatFields: INodeProperties = {
	displayName: 'Format',
	name: 'format',
	type: 'collection',
	placeholder: 'Add Field',
	default: {},
	displayOptions: { show: { ...VERSION_2 } },
	options: [
		{
			displayName: 'Beside a Widened Picture',
			name: 'fill',
			type: 'options',
			options: [
				{ name: 'One Colour', value: 'plain' },
				{ name: 'The Picture, Blurred', value: 'blur' },
			],
			default: 'blur',
			description: 'What fills the shape where the whole head would not fit into a cut picture',
		},
		{
			displayName: 'Height',
			name: 'height',
			type: 'number',
			typeOptions: { minValue: 144, maxValue: 2160 },
			default: 1280,
			description: 'Height of the video in pixels, an even number',
		},
		{
			displayName: 'Loudness',
			name: 'loudness',
			type: 'number',
			typeOptions: { minValue: -31, maxValue: -9 },
			default: -14,
			description:
				'Loudness of the sound in LUFS. YouTube, TikTok and Spotify play at -14. Without this field the recording stays as it is.',
		},
		{
			displayName: 'Put Poster in Field',
			name: 'posterField',
			type: 'string',
			default: '',
			placeholder: 'e.g. poster',
			hint: 'The name of the output binary field to put the first frame in, as a JPEG picture',
		},
		{
			displayName: 'Shape',
			name: 'shape',
			type: 'options',
			options: [
				{ name: '1:1, Square', value: '1:1' },
				{ name: '16:9, Wide (YouTube)', value: '16:9' },
				{ name: '4:5 (Instagram)', value: '4:5' },
				{ name: '9:16, Upright (Shorts, Reels, TikTok)', value: '9:16' },
				{ name: 'As the Picture', value: 'original' },
			],
			default: '9:16',
			description: 'The picture is cut around the head, or widened where the head would not fit',
		},
		{
			displayName: 'Silence Before the Speech',
			name: 'leadSilence',
			type: 'number',
			typeOptions: { minValue: 0, maxValue: 10, numberPrecision: 1 },
			default: 0.5,
			description: 'Seconds in which the person only breathes and blinks',
		},
	],
};

/** The form fields of the server for `format`, the value of the collection. */
export function formatTexts(format: IDataObject): Record<string, string> {
	return {
		format: text(format.shape),
		height: text(format.height),
		fill: text(format.fill),
		lead_silence_s: text(format.leadSilence),
		loudness_lufs: text(format.loudness),
	};
}
