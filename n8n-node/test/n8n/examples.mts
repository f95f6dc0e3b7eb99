/** The cases of the shipped workflows, up to the stand-ins of the services that they call. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { after, before, describe, it } from 'node:test';

import { example, sendForm, sendPair } from './example.mjs';
import { ModelStandIn } from './model.mjs';
import { output } from './execution.mjs';
import { eventually } from './places.mjs';
import { SmtpStandIn } from './smtp.mjs';
import type { Stage } from './stage.mjs';
import { TelegramStandIn } from './telegram.mjs';
import { TikTokStandIn } from './tiktok.mjs';

/** The rows of the table, and the rows whose picture is no picture. Twenty videos are made in one version of n8n only. */
const ROWS: Record<string, { nRows: number; badRows: number[] }> = {
	'1.x': { nRows: 5, badRows: [1, 4] },
	'2.x': { nRows: 20, badRows: [4, 11, 17] },
};

export function exampleCases(stage: () => Stage, version: string): void {
	const { nRows, badRows } = ROWS[version];

	describe('the examples', () => {
		let model: ModelStandIn;

		before(async () => {
			const { web, file } = at(stage());
			model = await ModelStandIn.start(
				{ Image_URL: `${web.url}/portrait.jpg`, Audio_URL: `${web.url}/speech.wav` },
				readFileSync(file('one/speech.wav')),
			);
		});

		after(() => model?.stop());

		const openAi = async () => ({
			openAiApi: await stage().n8n.saveCredential('OpenAI', 'openAiApi', {
				apiKey: 'none',
				url: model.url,
			}),
		});

		it('speaks a text, makes the video with captions, and publishes it as synthetic on YouTube', async () => {
			const { n8n, web } = stage();
			const youTube = { youTubeOAuth2Api: { id: 'youtube', name: 'YouTube' } };
			const { google } = stage();
			google.forget();
			const flow = example(
				'2-schedule-tts-to-youtube.json',
				[['https://example.com/portrait.jpg', `${web.url}/portrait.jpg`]],
				{ '.openAi': await openAi(), '.youTube': youTube, '.httpRequest': youTube },
			);
			const run = await n8n.tryOut(flow);
			assert.equal(run.status, 'success', JSON.stringify(run.data.resultData.error));
			assert.deepEqual(model.spoken, ['Good morning! Here is what matters today.']);
			const [item] = output(run, 'Lipsync');
			const [upload] = google.uploads;
			assert.equal(upload.bytes.length, item.json.size_bytes);
			assert.equal(upload.mimeType, 'video/mp4');
			const srt = await stage().server.fetch(`/v1/jobs/${String(item.json.job_id)}/captions.srt`);
			assert.match((await srt.text()).replaceAll(/\s+/g, ' '), /Good morning!/);
			assert.deepEqual(google.updates, [
				{ id: 'file-0', status: { privacyStatus: 'private', containsSyntheticMedia: true } },
			]);
		});

		it('answers a voice note with a talking picture, and everything else with a sentence', async () => {
			const { n8n, web, file } = at(stage());
			const bot = await TelegramStandIn.start(readFileSync(file('one/speech.wav')));
			try {
				const telegramApi = await n8n.saveCredential('Telegram', 'telegramApi', {
					accessToken: '1:token',
					baseUrl: bot.url,
				});
				const flow = await n8n.save(
					example(
						'3-telegram-voice-note.json',
						[['https://example.com/portrait.jpg', `${web.url}/portrait.jpg`]],
						{ '.telegram': { telegramApi }, '.telegramTrigger': { telegramApi } },
					),
				);
				await n8n.activate(flow);
				await bot.send({ voice: { file_id: 'voice-1' } });
				const sent = await eventually('the video', () => bot.videos[0]);
				assert.ok(sent.includes('talking.mp4') && sent.includes('ftyp'));
				await bot.send({ text: 'Hello' });
				await eventually('the answer', () => bot.messages[0]);
				assert.match(bot.messages[0], /^Send me a voice note/);
				assert.equal(bot.videos.length, 1);
				await n8n.deactivate(flow);
			} finally {
				bot.stop();
			}
		});

		it('sends a checked video to TikTok, and says there that it is generated', async () => {
			const { n8n, server } = stage();
			const tikTok = await TikTokStandIn.start();
			try {
				const changes: Array<[string, string]> = [
					['https://open.tiktokapis.com', tikTok.url],
					['genericCredentialType', 'none'],
				];
				const flow = await n8n.save(example('9-checked-video-to-tiktok.json', changes));
				await sendPair(stage(), flow);
				const { headers, bytes } = await eventually('the video', () => tikTok.videos[0]);
				const [{ post_info, source_info }] = tikTok.posts;
				assert.equal(post_info.is_aigc, true);
				assert.equal(post_info.privacy_level, 'SELF_ONLY');
				assert.equal(source_info.video_size, bytes.length);
				assert.equal(headers['content-type'], 'video/mp4');
				assert.equal(headers['content-range'], `bytes 0-${bytes.length - 1}/${bytes.length}`);
				const [run] = await n8n.newestOf(flow);
				const [item] = output(run, 'Lipsync');
				assert.deepEqual(bytes, await server.video(String(item.json.job_id)));
			} finally {
				tikTok.stop();
			}
		});

		it(`makes ${nRows} rows of a table, and reports the bad ones beside the good ones`, async () => {
			const { n8n, web } = stage();
			const rows = Array.from({ length: nRows }, (_, i) => {
				const picture = badRows.includes(i) ? 'no-picture.jpg' : 'portrait.jpg';
				return `row-${i},${web.url}/${picture},${web.url}/speech.wav`;
			});
			const table = Buffer.from(['name,picture_url,recording_url', ...rows].join('\n'));
			const flow = await n8n.save(example('4-batch-from-table.json'));
			await sendForm(n8n, flow, { name: 'table.csv', type: 'text/csv', bytes: table });
			const waiting = await eventually(
				'the report',
				async () => {
					const [newest] = await n8n.newestOf(flow);
					if (newest?.status === 'error') throw new Error(JSON.stringify(newest.data.resultData));
					return newest !== undefined && output(newest, 'Report').length > 0 ? newest : undefined;
				},
				600,
			);
			const good = output(waiting, 'Good Row').map(({ json }) => json);
			const bad = output(waiting, 'Bad Row').map(({ json }) => json);
			assert.deepEqual(
				bad.map(({ name }) => name),
				badRows.map((i) => `row-${i}`),
			);
			for (const { result, what_to_do } of bad) {
				assert.match(String(result), /picture|read/i);
				assert.ok(String(what_to_do).length > 10);
			}
			assert.equal(good.length, nRows - badRows.length);
			assert.deepEqual(
				good.map(({ name }) => name),
				rows.map((_, i) => `row-${i}`).filter((_, i) => !badRows.includes(i)),
			);
			for (const { link } of good.slice(0, 3))
				assert.equal((await fetch(String(link))).headers.get('content-type'), 'video/mp4');
			const [report] = output(waiting, 'Report');
			const text = (await n8n.binary(report.binary?.data)).toString();
			assert.equal(text.trim().split('\n').length, nRows + 1, text);
			assert.equal(report.binary?.data.fileName, 'report.csv');
		});

		it('keeps the inputs of a video that failed, and mails the reason and the next step', async () => {
			const { n8n, google } = stage();
			const mail = await SmtpStandIn.start();
			try {
				const data = { host: '127.0.0.1', port: mail.port, secure: false, disableStartTls: true };
				const smtp = await n8n.saveCredential('mail', 'smtp', { user: '', password: '', ...data });
				const drive = { googleApi: { id: 'google', name: 'Google' } };
				const accounts = { '.googleDrive': drive, '.emailSend': { smtp } };
				const flow = await n8n.save(example('8-error-branch.json', [], accounts));
				google.forget();
				await sendPair(stage(), flow, Buffer.from('this is no picture'));
				const text = await eventually('the mail', () => mail.mails[0]);
				// Quoted-printable folds long lines.
				const words = text.replaceAll('=\n', '');
				assert.match(words, /picture/);
				assert.match(words, /which field holds the picture/);
				const names = google.uploads.map(({ name }) => name.replace(/^failed-[\d-]+-/, 'failed-'));
				assert.deepEqual(names.sort(), ['failed-me.jpg', 'failed-me.wav']);
				google.forget();
				await sendPair(stage(), flow);
				await eventually('the video', () =>
					google.uploads.find(({ name }) => name === 'me-lipsync.mp4'),
				);
				assert.equal(mail.mails.length, 1);
			} finally {
				mail.stop();
			}
		});

		it('lets an agent make a video in a chat, and answer with the link', async () => {
			const { n8n } = stage();
			const flow = await n8n.save(
				example('6-agent-tool.json', [], { '.lmChatOpenAi': await openAi() }),
			);
			const said = { sessionId: 's', action: 'sendMessage', chatInput: 'Make a video' };
			const { executionId } = await n8n.rest<{ executionId: string }>(
				'POST',
				`/workflows/${flow.id}/run`,
				{
					triggerToStartFrom: {
						name: 'Chat',
						data: {
							startTime: 0,
							executionTime: 0,
							executionIndex: 0,
							executionStatus: 'success',
							source: [],
							data: { main: [[{ json: said }]] },
						},
					},
					workflowData: { ...flow, pinData: {} },
				},
			);
			const run = await n8n.ended(executionId);
			assert.equal(run.status, 'success', JSON.stringify(run.data.resultData.error));
			const link = /"link":\s*"([^"]+)"/.exec(String(output(run, 'Agent')[0].json.output))?.[1];
			const answer = await fetch(String(link));
			assert.equal(answer.headers.get('content-type'), 'video/mp4');
		});
	});
}

function at(stage: Stage) {
	return { n8n: stage.n8n, web: stage.web, file: (name: string) => stage.file(name) };
}
